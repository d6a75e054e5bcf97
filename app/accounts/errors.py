"""What can go wrong with accounts and credentials."""

from collections.abc import Iterable
from typing import Literal

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse

from app.core.errors import APIError
from app.core.responses import FieldError

OAuthErrorCode = Literal[
    "invalid_request", "invalid_grant", "invalid_scope", "unsupported_grant_type"
]


class Unauthenticated(APIError):
    status = 401
    code = "unauthenticated"
    message = "Send a login's token or an API key, not ended yet, as `Authorization: Bearer …`"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": "Bearer"})


class InsufficientScope(APIError):
    status = 403
    code = "insufficient_scope"
    message = "The credential lacks a scope that this call needs"

    def __init__(self, needed: Iterable[str]) -> None:
        scope = " ".join(sorted(needed))
        challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
        super().__init__(
            message=f"{type(self).message}: {scope}", headers={"WWW-Authenticate": challenge}
        )


class RegistrationDisabled(APIError):
    status = 403
    code = "registration_disabled"
    message = "Registration is closed; ask the operator for an account"


class UsernameTaken(APIError):
    status = 409
    code = "username_taken"
    message = "Username already exists"
    example = FieldError(field="body.username", message=message, code="duplicate")


class EmailTaken(APIError):
    status = 409
    code = "email_taken"
    message = "Email already registered"
    example = FieldError(field="body.email", message=message, code="duplicate")


class ApiKeyNotFound(APIError):
    """There is no such key, or it is another's: the two cannot be told apart."""

    status = 404
    code = "api_key_not_found"
    message = "API key not found"


class TooManyApiKeys(APIError):
    status = 409
    code = "too_many_api_keys"
    message = "The account has as many API keys as it can have; delete one first"


class OAuthError(HTTPException):
    """An error of the token endpoint, whose body RFC 6749, section 5.2, fixes."""

    def __init__(self, code: OAuthErrorCode, description: str) -> None:
        super().__init__(status_code=400, detail=description)
        self.code = code


async def render_oauth_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, OAuthError):
        raise TypeError("render_oauth_error renders only OAuthError")
    return JSONResponse(
        {"error": error.code, "error_description": error.detail}, status_code=error.status_code
    )
