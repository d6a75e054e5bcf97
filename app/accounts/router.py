"""Registration, login, and the caller's own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts import api_keys as keys
from app.accounts import logins, service
from app.accounts.audit import audit
from app.accounts.credentials import CurrentUser, requires
from app.accounts.errors import (
    ApiKeyNotFound,
    EmailTaken,
    RegistrationDisabled,
    TooManyApiKeys,
    UsernameTaken,
)
from app.accounts.oauth import OAuthRoute, refuse_repeated_parameters
from app.accounts.passwords import PasswordGuesses
from app.accounts.schemas import (
    AccountClosing,
    ApiKeyCreate,
    ApiKeyCreated,
    ApiKeyDeletedResponse,
    ApiKeyId,
    ApiKeyList,
    ApiKeyListResponse,
    ApiKeyRead,
    ApiKeyResponse,
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
from app.core.errors import document_errors
from app.core.rate_limits import RateLimited, address_key, spend
from app.core.responses import document_links
from app.core.routing import API, StrictRoute
from app.db.session import OrmSessionDep, OrmTransactionDep

users = APIRouter(prefix=f"{API}/users", tags=["accounts"], route_class=StrictRoute)
api_keys = APIRouter(prefix=f"{API}/api-keys", tags=["accounts"], route_class=StrictRoute)
auth = APIRouter(prefix=f"{API}/auth", tags=["accounts"], route_class=OAuthRoute)


@users.post(
    "",
    status_code=201,
    summary="Register an account",
    responses=document_errors(RegistrationDisabled, UsernameTaken, EmailTaken, RateLimited),
)
async def create_user(data: UserCreate, request: Request, session: OrmSessionDep) -> UserResponse:
    """Make an account, and log in to it with `POST /api/v1/auth/token`.

    Username and email must both be free, whatever their case. No answer ever holds the password.
    """
    state = request.app.state
    if not state.settings.registration_enabled:
        raise RegistrationDisabled
    limit = state.settings.rate_limit_registration
    await spend(request, "registration", limit, address_key(request.scope))
    user = await service.register_user(
        session, data, hasher=state.password_hasher, settings=state.settings
    )
    audit("account_registered", user_id=user.id)
    return UserResponse(message="User created", data=UserRead.model_validate(user))


@users.get(
    "/me",
    summary="Read the own account",
    dependencies=[requires("account:read")],
)
async def read_me(actor: CurrentUser, session: OrmSessionDep) -> UserResponse:
    """The account that the credential speaks for."""
    user = await service.read_own_account(session, actor)
    return UserResponse(data=UserRead.model_validate(user))


@users.patch(
    "/me",
    summary="Change the own account",
    dependencies=[requires("account:write")],
    responses=document_errors(UsernameTaken, EmailTaken),
)
async def update_me(data: UserUpdate, actor: CurrentUser, session: OrmSessionDep) -> UserResponse:
    """Change the username or the email address (JSON Merge Patch, RFC 7396)."""
    user = await service.update_own_account(session, actor, data)
    return UserResponse(message="User updated", data=UserRead.model_validate(user))


@users.post(
    "/me/password",
    summary="Change the own password",
    dependencies=[requires("account:write")],
)
async def change_password(
    data: PasswordChange,
    request: Request,
    actor: CurrentUser,
    session: OrmSessionDep,
    transaction: OrmTransactionDep,
) -> DoneResponse:
    """Replace the password, and end every login but the one that asks for it.

    A wrong current password is a 400 on `body.current_password` with the code `incorrect`, and
    limited like a login: after too many, even the right one is a 429 for a while.
    """
    state = request.app.state
    await service.change_own_password(
        session,
        transaction,
        actor,
        data,
        PasswordGuesses(request),
        hasher=state.password_hasher,
        settings=state.settings,
    )
    return DoneResponse(message="Password changed", data=None)


@users.post(
    "/me/close",
    summary="Close the own account",
    dependencies=[requires("account:write")],
)
async def close_account(
    data: AccountClosing, request: Request, actor: CurrentUser, session: OrmSessionDep
) -> DoneResponse:
    """Remove the account and everything that it owns, for good.

    A wrong password is a 400 on `body.password` with the code `incorrect`, and limited like a
    login: after too many, even the right one is a 429 for a while.
    """
    await service.close_own_account(
        session,
        actor,
        data,
        PasswordGuesses(request),
        hasher=request.app.state.password_hasher,
    )
    return DoneResponse(message="Account closed", data=None)


@api_keys.post(
    "",
    status_code=201,
    summary="Make an API key",
    dependencies=[requires("account:write")],
    responses={
        **document_errors(TooManyApiKeys),
        201: {"links": document_links("api_key_id", "delete_api_key")},
    },
)
async def create_api_key(
    data: ApiKeyCreate, request: Request, actor: CurrentUser, transaction: OrmTransactionDep
) -> ApiKeyResponse:
    """Make a credential for a machine. The answer holds the `key`, shown this once.

    It may do what its `scopes` say, which are some or all of those of the credential that makes it;
    wider ones are a 403. It stands by itself: it stays when the one that made it ends. An account
    has at most 100 keys.
    """
    settings = request.app.state.settings
    key, token = await keys.create_api_key(transaction, actor, data, settings=settings)
    shown = ApiKeyRead.model_validate(key).model_dump()
    return ApiKeyResponse(message="API key created", data=ApiKeyCreated(**shown, key=token))


@api_keys.get(
    "",
    summary="List the API keys",
    dependencies=[requires("account:read")],
)
async def list_api_keys(actor: CurrentUser, session: OrmSessionDep) -> ApiKeyListResponse:
    """The account's API keys, newest first; expired ones stay until they are deleted."""
    found = await keys.list_api_keys(session, actor)
    shown = [ApiKeyRead.model_validate(key) for key in found]
    return ApiKeyListResponse(data=ApiKeyList(api_keys=shown))


@api_keys.delete(
    "/{api_key_id}",
    summary="Delete an API key",
    dependencies=[requires("account:write")],
    responses=document_errors(ApiKeyNotFound),
)
async def delete_api_key(
    api_key_id: ApiKeyId, actor: CurrentUser, session: OrmSessionDep
) -> ApiKeyDeletedResponse:
    """End an API key, on every worker with its next request. A key may delete itself."""
    await keys.delete_api_key(session, actor, api_key_id)
    return ApiKeyDeletedResponse(message="API key deleted", data=None)


@auth.post(
    "/token",
    summary="Log in",
    dependencies=[Depends(refuse_repeated_parameters)],
    responses={
        400: {"model": OAuthErrorResponse, "description": "The grant is refused (RFC 6749, 5.2)"},
        **document_errors(RateLimited),
    },
)
async def create_token(
    grant: Annotated[PasswordGrant, Form()],
    request: Request,
    response: Response,
    session: OrmSessionDep,
) -> TokenResponse:
    """Exchange a username or an email address and its password for a bearer token.

    This is the OAuth2 password grant (RFC 6749, section 4.3), with its own bodies for answers and
    errors. An unknown name, a wrong password and an inactive account get the same answer. The
    token lasts `expires_in` seconds, does not slide, and has all scopes unless it asks for fewer.
    Wrong guesses are limited by name and address: over the limit even the right password is a 429
    from there, and works from elsewhere.
    """
    state = request.app.state
    issued = await logins.log_in(
        session,
        grant,
        PasswordGuesses(request),
        hasher=state.password_hasher,
        settings=state.settings,
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
    summary="End a login or an API key",
    dependencies=[Depends(refuse_repeated_parameters)],
    response_class=Response,
    responses={
        200: {"description": "The token is worth nothing any more, whatever it was", "content": {}},
        400: {"model": OAuthErrorResponse, "description": "The form has no `token`"},
        **document_errors(RateLimited),
    },
)
async def revoke_token(
    form: Annotated[TokenRevocation, Form()], request: Request, session: OrmSessionDep
) -> Response:
    """End the login or the API key behind a token, at once and everywhere (RFC 7009).

    Whoever knows a token may end it, so this needs no other authentication. An unknown token gets
    the same answer. Without a credential of its own it is limited by address.
    """
    settings = request.app.state.settings
    await spend(request, "api", settings.rate_limit_api, address_key(request.scope))
    await logins.revoke_token(session, form.token.get_secret_value(), settings=settings)
    return Response()
