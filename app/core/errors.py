"""Errors that clients meet: each class declares its status, code and message once.

The handler renders them, and the routers' `responses=` are made from the same classes, so that the
document and the service cannot disagree.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from app.core.bounds import MAXIMUM_ERRORS_SHOWN, NO_NUL
from app.core.responses import ErrorResponse, FieldError, FieldErrorCode

MAXIMUM_NAME_LENGTH = 64

TOO_MANY = 429

# Where a route that authenticates leaves the function that confirms a remembered credential.
CONFIRM_CREDENTIAL = "taskflow.confirm_credential"


class APIError(HTTPException):
    """The base of every error of the contract. Subclasses declare `status`, `code` and `message`.

    It is an `HTTPException` so that one handler renders these and what Starlette raises.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    message: str
    example: ClassVar[FieldError | None] = None
    """A field that such an error may blame, for the document."""

    def __init__(
        self,
        *,
        message: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`message`, where there is more to say than the class knows."""
        if message is not None:
            self.message = message
        super().__init__(status_code=self.status, detail=self.message, headers=headers)
        self.errors = list(errors)


class ValidationFailed(APIError):
    status = 400
    code = "validation_failed"
    message = "The request is not valid"
    example = FieldError(
        field="query.verbose", message="This parameter is not known here", code="unknown"
    )


class MalformedJSON(APIError):
    status = 400
    code = "malformed_json"
    message = "The body is not valid JSON"
    example = FieldError(field="body", message="expected value at line 1 column 11", code="invalid")


class NotFound(APIError):
    status = 404
    code = "not_found"
    message = "There is nothing here"


class MethodNotAllowed(APIError):
    status = 405
    code = "method_not_allowed"
    message = "This method is not allowed here"


class PayloadTooLarge(APIError):
    status = 413
    code = "payload_too_large"
    message = "The body is too large"


class UnsupportedMediaType(APIError):
    status = 415
    code = "unsupported_media_type"
    message = "The body's Content-Type or Content-Encoding is not supported here"
    example = FieldError(
        field="header.content-type", message="Input should be application/json", code="invalid"
    )


class InternalError(APIError):
    status = 500
    code = "internal_error"
    message = "Something went wrong on our side"


class Unavailable(APIError):
    """The base of transient errors, after which the client is to try again in a second."""

    status = 503
    retry_after = "1"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": self.retry_after})


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    message = "The database does not answer; try again"


class Overloaded(Unavailable):
    code = "overloaded"
    message = "Too many requests are under way; try again"


class ShuttingDown(Unavailable):
    """Said to probes alone; whatever else comes is still answered."""

    code = "shutting_down"
    message = "The service is about to stop; ask another node"


class AnswerBrokenOff(Exception):
    """An answer failed after its head was sent, so that only closing the connection is left.

    What went wrong is in the log already.
    """


class ClientClosedRequest(APIError):
    """The client went away while it was sending; nobody reads this answer, but the log does."""

    status = 499
    code = "client_closed_request"
    message = "The client closed the connection"


def error_body(
    request: Request, *, code: str, message: str, errors: Sequence[FieldError] = ()
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "status": "error",
        "message": message,
        "code": code,
        "request_id": request.scope.get("taskflow.request_id", ""),
    }
    if errors:
        body["errors"] = [error.model_dump() for error in errors]
    return body


def error_response(request: Request, error: APIError) -> JSONResponse:
    return JSONResponse(
        error_body(request, code=error.code, message=error.message, errors=error.errors),
        status_code=error.status,
        headers=error.headers,
    )


def described(examples: Mapping[str, Mapping[str, Any]]) -> str:
    """What a response with these examples of errors means, in sentences."""
    summaries = dict.fromkeys(example["summary"] for example in examples.values())
    return " Or: ".join(f"{summary}." for summary in summaries)


def document_errors(*errors: type[APIError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a router for the errors its calls can give, one example for each code."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        response = by_status.setdefault(
            error.status,
            {
                "model": ErrorResponse,
                "content": {"application/json": {"examples": {}}},
            },
        )
        examples = response["content"]["application/json"]["examples"]
        examples[error.code] = {
            "summary": error.message,
            "value": {
                "status": "error",
                "message": error.message,
                "code": error.code,
                "request_id": "5f0c1c9e2b7d4d0f9a51c9a4d7a3b1e8",
                **({"errors": [error.example.model_dump()]} if error.example else {}),
            },
        }
        response["description"] = described(examples)
    return by_status


_CODES_BY_TYPE: dict[str, FieldErrorCode] = {
    "missing": "missing",
    "extra_forbidden": "unknown",
    "unknown": "unknown",
    "string_too_short": "too_short",
    "too_short": "too_short",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "out_of_range": "out_of_range",
    "int_parsing_size": "out_of_range",
    "duplicate": "duplicate",
}
_MESSAGES_BY_TYPE = {
    "missing": "This field is required",
    "extra_forbidden": "This field is not known here",
    "model_attributes_type": "Input should be a JSON object",
    "model_type": "Input should be a JSON object",
    "dict_type": "Input should be a JSON object",
}


def _code_of(error: Mapping[str, Any]) -> FieldErrorCode:
    error_type: str = error["type"]
    if error_type in _CODES_BY_TYPE:
        return _CODES_BY_TYPE[error_type]
    if error_type == "enum" and not isinstance(error.get("input"), str):
        return "wrong_type"
    return "wrong_type" if error_type.endswith(("_type", "_parsing")) else "invalid"


def _message_of(error: Mapping[str, Any]) -> str:
    if error["type"] == "too_long":
        # Pydantic counts the characters of a secret as items, and tells how many were sent.
        things = "items" if error["ctx"]["field_type"] == "List" else "characters"
        return f"Input should have at most {error['ctx']['max_length']} {things}"
    if error["type"] == "too_short":
        number = error["ctx"]["min_length"]
        return f"Input should have at least {number} {'item' if number == 1 else 'items'}"
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NO_NUL:
        return "Input must not hold NUL"
    message: str = _MESSAGES_BY_TYPE.get(error["type"]) or error["msg"].removeprefix(
        "Value error, "
    )
    is_item_of_a_query = error["loc"][:1] == ("query",) and isinstance(error["loc"][-1], int)
    if error["type"] == "enum" and is_item_of_a_query and "," in error["input"]:
        message += "; for several of them repeat the parameter"
    if error["type"].endswith("_type") and error.get("input", "") is None:
        message += ", and not null"
    return message


def _path_of(location: Sequence[int | str]) -> str:
    """`("body", "operations", 2, "task")` as `body.operations[2].task`, long names cut.

    A query parameter is called by its name, whether it is repeated or not.
    """
    if location[:1] == ("query",):
        location = [part for part in location if isinstance(part, str)]
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if len(part) <= MAXIMUM_NAME_LENGTH else part[:MAXIMUM_NAME_LENGTH] + "…"
            # Names come from the client as well, and many a reader ends a text at NUL.
            name = name.replace("\0", "\N{REPLACEMENT CHARACTER}")
            path += f".{name}" if path else name
    return path


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Pydantic's errors in the words of the contract; the offending values are left out."""
    return [
        FieldError(field=_path_of(error["loc"]), message=_message_of(error), code=_code_of(error))
        for error in errors[:MAXIMUM_ERRORS_SHOWN]
    ]


def as_api_error(error: BaseException) -> APIError:
    """What an error that FastAPI or Starlette raised means in the contract."""
    match error:
        # Starlette wraps an error that is raised when half the answer is out.
        case (APIError() as known) | RuntimeError(__cause__=APIError() as known):
            return known
        case RequestValidationError():
            return ValidationFailed(errors=field_errors(error.errors()))
        case StarletteHTTPException(status_code=404):
            return NotFound()
    return InternalError()


async def _render(request: Request, exception: Exception) -> JSONResponse:
    error = as_api_error(exception)
    confirm = request.scope.get(CONFIRM_CREDENTIAL)
    # Who is refused for asking too often learns nothing else, and must not cost a statement.
    if confirm is not None and error.status < InternalError.status and error.status != TOO_MANY:
        try:
            await confirm(request)
        except APIError as ended:
            error = ended
    return error_response(request, error)


def install_error_handlers(app: FastAPI) -> None:
    """Render every error that is raised inside the application in the contract's envelope."""
    app.add_exception_handler(StarletteHTTPException, _render)
    app.add_exception_handler(RequestValidationError, _render)
