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
    OAuthErrorResponse,
    PasswordGrant,
    TokenResponse,
    UserCreate,
    UserRead,
    UserResponse,
)
from app.core.errors import (
    DatabaseUnavailable,
    InternalError,
    MalformedJSON,
    Overloaded,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    document_errors,
)
from app.core.routing import StrictRoute
from app.db.session import SessionDep

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
    responses=document_errors(
        ValidationFailed,
        MalformedJSON,
        RegistrationDisabled,
        UsernameTaken,
        EmailTaken,
        PayloadTooLarge,
        UnsupportedMediaType,
    ),
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
