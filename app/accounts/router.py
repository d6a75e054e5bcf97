"""Registration, login, and the caller's own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts import service
from app.accounts.credentials import CurrentUser, requires
from app.accounts.errors import (
    EmailTaken,
    InsufficientScope,
    RegistrationDisabled,
    Unauthenticated,
    UsernameTaken,
)
from app.accounts.oauth import OAuthRoute, refuse_repeated_parameters
from app.accounts.schemas import (
    AccountClosing,
    DoneResponse,
    OAuthErrorResponse,
    PasswordChange,
    PasswordGrant,
    TokenResponse,
    TokenRevocation,
    UserCreate,
    UserRead,
    UserResponse,
    UserUpdate,
)
from app.core.errors import (
    BODY_ERRORS,
    DatabaseUnavailable,
    InternalError,
    Overloaded,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    document_errors,
)
from app.core.routing import StrictRoute
from app.db.session import SessionDep, TransactionDep

users = APIRouter(
    prefix="/users",
    tags=["accounts"],
    route_class=StrictRoute,
    responses=document_errors(InternalError, DatabaseUnavailable, Overloaded),
)
auth = APIRouter(
    prefix="/auth",
    tags=["accounts"],
    route_class=OAuthRoute,
    responses=document_errors(
        PayloadTooLarge, UnsupportedMediaType, InternalError, DatabaseUnavailable, Overloaded
    ),
)


@users.post(
    "",
    status_code=201,
    summary="Register an account",
    responses=document_errors(*BODY_ERRORS, RegistrationDisabled, UsernameTaken, EmailTaken),
)
async def create_user(data: UserCreate, request: Request, session: SessionDep) -> UserResponse:
    """Make an account, and log in to it with `POST /api/v1/auth/token`.

    Username and email must both be free, whatever their case. No answer ever holds the password.
    """
    state = request.app.state
    if not state.settings.registration_enabled:
        raise RegistrationDisabled
    user = await service.register_user(
        session, data, hasher=state.password_hasher, settings=state.settings
    )
    return UserResponse(message="User created", data=UserRead.model_validate(user))


@users.get(
    "/me",
    summary="Read the own account",
    dependencies=[requires("account:read")],
    responses=document_errors(ValidationFailed, Unauthenticated, InsufficientScope),
)
async def read_me(actor: CurrentUser, session: SessionDep) -> UserResponse:
    """The account that the credential speaks for."""
    user = await service.read_own_account(session, actor)
    return UserResponse(data=UserRead.model_validate(user))


@users.patch(
    "/me",
    summary="Change the own account",
    dependencies=[requires("account:write")],
    responses=document_errors(
        *BODY_ERRORS, Unauthenticated, InsufficientScope, UsernameTaken, EmailTaken
    ),
)
async def update_me(data: UserUpdate, actor: CurrentUser, session: SessionDep) -> UserResponse:
    """Change the username or the email address (JSON Merge Patch, RFC 7396)."""
    user = await service.update_own_account(session, actor, data)
    return UserResponse(message="User updated", data=UserRead.model_validate(user))


@users.post(
    "/me/password",
    summary="Change the own password",
    dependencies=[requires("account:write")],
    responses=document_errors(*BODY_ERRORS, Unauthenticated, InsufficientScope),
)
async def change_password(
    data: PasswordChange,
    request: Request,
    actor: CurrentUser,
    session: SessionDep,
    transaction: TransactionDep,
) -> DoneResponse:
    """Replace the password, and end every login but the one that asks for it.

    A wrong current password is a 400 on `body.current_password` with the code `incorrect`.
    """
    state = request.app.state
    await service.change_own_password(
        session,
        transaction,
        actor,
        data,
        hasher=state.password_hasher,
        settings=state.settings,
    )
    return DoneResponse(message="Password changed", data=None)


@users.post(
    "/me/close",
    summary="Close the own account",
    dependencies=[requires("account:write")],
    responses=document_errors(*BODY_ERRORS, Unauthenticated, InsufficientScope),
)
async def close_account(
    data: AccountClosing, request: Request, actor: CurrentUser, session: SessionDep
) -> DoneResponse:
    """Remove the account and everything that it owns, for good.

    A wrong password is a 400 on `body.password` with the code `incorrect`.
    """
    await service.close_own_account(session, actor, data, hasher=request.app.state.password_hasher)
    return DoneResponse(message="Account closed", data=None)


@auth.post(
    "/token",
    summary="Log in",
    dependencies=[Depends(refuse_repeated_parameters)],
    responses={
        400: {"model": OAuthErrorResponse, "description": "The grant is refused (RFC 6749, 5.2)"}
    },
)
async def create_token(
    grant: Annotated[PasswordGrant, Form()],
    request: Request,
    response: Response,
    session: SessionDep,
) -> TokenResponse:
    """Exchange a username or an email address and its password for a bearer token.

    This is the OAuth2 password grant (RFC 6749, section 4.3), with its own bodies for answers and
    errors. An unknown name, a wrong password and an inactive account get the same answer. The
    token lasts `expires_in` seconds, does not slide, and has all scopes unless it asks for fewer.
    """
    state = request.app.state
    issued = await service.log_in(
        session, grant, hasher=state.password_hasher, settings=state.settings
    )
    response.headers["Pragma"] = "no-cache"
    return TokenResponse(
        access_token=issued.token,
        token_type="bearer",  # noqa: S106 - the token's type, not a secret
        expires_in=issued.expires_in,
        scope=" ".join(issued.scopes),
    )


@auth.post(
    "/revoke",
    summary="End a login",
    dependencies=[Depends(refuse_repeated_parameters)],
    response_class=Response,
    responses={
        200: {"description": "The token is worth nothing any more, whatever it was", "content": {}},
        400: {"model": OAuthErrorResponse, "description": "The form has no `token`"},
    },
)
async def revoke_token(
    form: Annotated[TokenRevocation, Form()], request: Request, session: SessionDep
) -> Response:
    """End the login behind a token, on every worker with its next request (RFC 7009).

    Whoever knows a token may end it, so this needs no other authentication. An unknown token gets
    the same answer.
    """
    await service.revoke_token(
        session, form.token.get_secret_value(), settings=request.app.state.settings
    )
    return Response()
