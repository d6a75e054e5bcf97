"""The OAuth2 endpoints' own way with errors and parameters."""

from typing import ClassVar, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from app.accounts.errors import OAuthError
from app.core.errors import ValidationFailed, field_errors
from app.core.routing import Handler, StrictRoute

# Decoding a megabyte of a hostile form would hold up every other request for a second.
MAXIMUM_FORM_BYTES = 64 * 1024
UNSUPPORTED_GRANT_TYPE: Final = "unsupported_grant_type"


class OAuthRoute(StrictRoute):
    """Answers faults in the form as `invalid_request`, and ignores parameters it does not know.

    Both are what RFC 6749, sections 3.2 and 5.2, lays down.
    """

    refuses_unknown_parameters: ClassVar[bool] = False
    maximum_body_bytes: ClassVar[int] = MAXIMUM_FORM_BYTES

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_as_oauth(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                for fault in error.errors():
                    # What else is missing belongs to the grant that is meant.
                    if fault["type"] == UNSUPPORTED_GRANT_TYPE:
                        raise OAuthError(UNSUPPORTED_GRANT_TYPE, fault["msg"]) from None
                names = [fault.field for fault in field_errors(error.errors())]
            except ValidationFailed as error:
                names = [fault.field for fault in error.errors]
            wrong = ", ".join(name.removeprefix("body.") for name in names)
            raise OAuthError("invalid_request", f"Missing or not valid: {wrong}")

        return handle_as_oauth


async def refuse_repeated_parameters(request: Request) -> None:
    """Raise `invalid_request` for a parameter given twice (RFC 6749, section 3.2)."""
    names = [name for name, _ in (await request.form()).multi_items()]
    if len(names) != len(set(names)):
        raise OAuthError("invalid_request", "A parameter is given more than once")
