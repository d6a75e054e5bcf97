"""The strict route: who is asking, may they, and is the request well formed, before FastAPI looks.

FastAPI reads the body before it solves any dependency, so that a stranger would learn from a 400
what only users should. A route of this class authenticates first, and refuses by name what FastAPI
would ignore: unknown and repeated query parameters, and bodies of another media type.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterator
from difflib import get_close_matches
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from anyio import to_thread
from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.datastructures import FormData, UploadFile
from starlette.types import Receive, Scope, Send

from app.core.bounds import MAXIMUM_ERRORS_SHOWN
from app.core.endpoints import Endpoint, parameter_names, query_pairs
from app.core.errors import (
    CONFIRM_CREDENTIAL,
    MAXIMUM_NAME_LENGTH,
    APIError,
    ClientClosedRequest,
    DatabaseUnavailable,
    InternalError,
    MalformedJSON,
    Overloaded,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    field_errors,
)
from app.core.responses import FieldError, FieldErrorCode
from app.core.strict_json import read_json

API = "/api/v1"
MAXIMUM_BODY_BYTES = 1024 * 1024
MAXIMUM_FORM_FIELDS = 100
NOT_UTF_8 = "Input should be percent-encoded UTF-8"
# In the outermost object of a body; no schema has nearly as many fields.
MAXIMUM_MEMBERS = 1000
# A body of at most this size is parsed on the event loop, in a millisecond or two.
# A larger one is parsed in a thread.
READ_AT_ONCE_BYTES = 64 * 1024
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Authenticator(SecurityBase):
    """A security scheme that can be asked before the body is read, and again after a refusal."""

    errors: ClassVar[tuple[type[APIError], ...]]
    """What `authenticate` can raise, for the document."""

    @abstractmethod
    async def authenticate(self, request: Request, scopes: frozenset[str]) -> None:
        """Remember who is asking in the request, or raise one of the `errors` that answers it."""

    @abstractmethod
    async def __call__(self, request: Request) -> Any:  # noqa: ANN401 - core knows no users
        """Who is asking, as `authenticate` found out; this is what endpoints are given."""

    @abstractmethod
    async def confirm(self, request: Request) -> None:
        """Raise the 401 if the credential has ended since this worker last looked it up.

        Called before a 4xx is answered: the identity may have come from the worker's memory, or the
        body may have been long on its way. Whoever lost the credential meanwhile is told so, and
        not what is wrong with the rest of the request.
        """


class StrictRequest(Request):
    """A request whose `body` is limited in size while it comes, and whose JSON is strict."""

    maximum_body_bytes = MAXIMUM_BODY_BYTES

    async def body(self) -> bytes:
        """The body. Raises `PayloadTooLarge`, and `ClientClosedRequest` if it breaks off."""
        if not hasattr(self, "_body"):
            for name, value in self.scope["headers"]:
                is_length = name == b"content-length" and value.isdigit()
                if is_length and int(value) > self.maximum_body_bytes:
                    raise self._too_large()
            parts, more = [], True
            received = 0
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientClosedRequest
                part = message.get("body", b"")
                received += len(part)
                if received > self.maximum_body_bytes:
                    raise self._too_large()
                parts.append(part)
                more = message.get("more_body", False)
            self._body = b"".join(parts)
        return self._body

    def _too_large(self) -> PayloadTooLarge:
        limit = f"{self.maximum_body_bytes:,} bytes"
        return PayloadTooLarge(message=f"The body is too large: it may have {limit} at most")

    async def json(self) -> Any:  # noqa: ANN401 - JSON is anything
        """The body as strict JSON: no NaN, no Infinity, no lone surrogate, bounded in depth."""
        if not hasattr(self, "_json"):
            body = await self.body()
            # Others' requests must go on while a large body is read.
            if len(body) <= READ_AT_ONCE_BYTES:
                value = read_json(body)
            else:
                value = await to_thread.run_sync(_read_or_tell, body)
                if isinstance(value, APIError):
                    raise type(value)(errors=value.errors)
            if isinstance(value, dict) and len(value) > MAXIMUM_MEMBERS:
                # To name each of them as unknown would hold up all other requests.
                message = f"Input should have at most {MAXIMUM_MEMBERS} fields"
                raise ValidationFailed(
                    errors=[FieldError(field="body", message=message, code="too_long")]
                )
            self._json = value
        return self._json

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]  # noqa: ANN401 - Starlette's limits
        """The URL-encoded body in strict UTF-8, which Starlette would read as Latin-1."""
        try:
            pairs: list[tuple[str, str | UploadFile]] = [
                *parse_qsl(
                    (await self.body()).decode(),
                    keep_blank_values=True,
                    errors="strict",
                    max_num_fields=MAXIMUM_FORM_FIELDS,
                )
            ]
        except ValueError:
            message = f"This is not a form in UTF-8 with at most {MAXIMUM_FORM_FIELDS} fields"
            raise ValidationFailed(
                errors=[FieldError(field="body", message=message, code="invalid")]
            ) from None
        return FormData(pairs)


def _read_or_tell(body: bytes) -> Any:  # noqa: ANN401 - JSON is anything
    """The value of JSON, or the error that says what is wrong with it.

    It is returned and not raised: an exception that a thread hands on is in a cycle with the frames
    of its traceback, which would keep the body in memory until the garbage collector runs.
    """
    try:
        return read_json(body)
    except APIError as error:
        return error.with_traceback(None)


def operation_id(route: APIRoute) -> str:
    """Endpoints are named `verb_noun`; SDKs call their methods so."""
    return route.name


class StrictRoute(APIRoute):
    """See the module's docstring. Use it as a router's `route_class`."""

    refuses_unknown_parameters: ClassVar[bool] = True
    maximum_body_bytes: ClassVar[int] = MAXIMUM_BODY_BYTES

    def errors(self) -> tuple[type[APIError], ...]:
        """What any operation of this kind can answer, for the document."""
        authenticator = _authenticator(self.dependant)
        media_types = _media_types(self)
        return (
            *((ValidationFailed,) if self.refuses_unknown_parameters else ()),
            *((MalformedJSON,) if "application/json" in media_types else ()),
            *((PayloadTooLarge, UnsupportedMediaType) if media_types else ()),
            *(authenticator.errors if authenticator else ()),
            InternalError,
            DatabaseUnavailable,
            Overloaded,
        )

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*arguments, **options | {"generate_unique_id_function": operation_id})
        self._handle = self.get_route_handler()
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application."""
        request = StrictRequest(scope, receive, send)
        request.maximum_body_bytes = self.maximum_body_bytes
        try:
            response = await self._handle(request)
        except Exception as error:
            handlers = request.app.exception_handlers
            kind = next((kind for kind in type(error).__mro__ if kind in handlers), None)
            if kind is None:
                raise
            response = await handlers[kind](request, error)
        await response(scope, receive, send)

    def get_route_handler(self) -> Handler:
        handle = Endpoint(self.dependant, status_code=self.status_code)
        authenticator = _authenticator(self.dependant)
        scopes = frozenset(_scopes(self.dependant))
        query_names = _query_names(self.dependant)
        media_types = _media_types(self)
        unknown_conditions = _unknown_conditions(self) if self.refuses_unknown_parameters else set()

        async def handle_strictly(request: Request) -> Response:
            if authenticator is not None and authenticator not in request.app.dependency_overrides:
                request.scope[CONFIRM_CREDENTIAL] = authenticator.confirm
                await authenticator.authenticate(request, scopes)
            _check_conditions(request, unknown_conditions)
            _check_media_type(request, media_types)
            if self.refuses_unknown_parameters:
                _check_query_names(request, query_names)
            return await self.respond(request, handle)

        return handle_strictly

    async def respond(self, request: Request, handle: Handler) -> Response:
        """Answer a request of a known caller; for subclasses that do something around it."""
        return await handle(request)


def _dependants(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for sub in dependant.dependencies:
        yield from _dependants(sub)


def _authenticator(dependant: Dependant) -> Authenticator | None:
    for sub in _dependants(dependant):
        if isinstance(sub.call, Authenticator):
            return sub.call
    return None


def _scopes(dependant: Dependant) -> Iterator[str]:
    for sub in _dependants(dependant):
        yield from sub.own_oauth_scopes or ()


def _query_names(dependant: Dependant) -> dict[str, bool]:
    """Each query parameter's name, and whether it may be repeated."""
    names: dict[str, bool] = {}
    for sub in _dependants(dependant):
        for field in sub.query_params:
            names |= parameter_names(field)
    return names


def _media_types(route: APIRoute) -> frozenset[str]:
    """The media types that the route's body may have; empty for a route without a body."""
    if route.body_field is None:
        return frozenset()
    if isinstance(route.body_field.field_info, Form):
        return frozenset({"application/x-www-form-urlencoded"})
    if "PATCH" in (route.methods or ()):
        return frozenset({"application/json", "application/merge-patch+json"})
    return frozenset({"application/json"})


def _unknown_conditions(route: APIRoute) -> set[bytes]:
    """Of `If-Match` and `If-None-Match` (RFC 9110, section 13), what the route would ignore."""
    if "GET" in (route.methods or ()):
        return set()
    known = {
        field.alias.lower().encode()
        for sub in _dependants(route.dependant)
        for field in sub.header_params
    }
    return {b"if-match", b"if-none-match"} - known


def _check_conditions(request: Request, unknown_conditions: set[bytes]) -> None:
    if not unknown_conditions:
        return
    for name, _ in request.scope["headers"]:
        if name in unknown_conditions:
            # A write that goes on regardless is what a condition is there to prevent.
            message = "This call does not know this condition"
            fault = FieldError(field=f"header.{name.decode()}", message=message, code="unknown")
            raise ValidationFailed(errors=[fault])


_NO_BODY = FieldError(field="body", message="This call takes no body", code="unknown")


def _check_media_type(request: Request, media_types: frozenset[str]) -> None:
    given, codings = [], []
    has_body = False
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            given.append(value.decode("latin-1").partition(";")[0].strip().lower())
        elif name == b"content-encoding":
            codings.append(value.strip().lower())
        elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            has_body = True
    if not media_types:
        if has_body:
            raise ValidationFailed(errors=[_NO_BODY])
        return
    if not given and not has_body:
        # The answer names the body as missing, which helps more.
        return
    if len(given) != 1 or given[0] not in media_types:
        message = f"Input should be {' or '.join(sorted(media_types))}"
        code: FieldErrorCode = "invalid" if given else "missing"
        fault = FieldError(field="header.content-type", message=message, code=code)
        raise UnsupportedMediaType(errors=[fault])
    if set(codings) - {b"identity"}:
        message = "The body must not be compressed"
        fault = FieldError(field="header.content-encoding", message=message, code="invalid")
        raise UnsupportedMediaType(errors=[fault])


def _known(names: Collection[str], *, like: str) -> str:
    """Which of the known names may be meant by an unknown one, for the end of a message."""
    if not names:
        return "this call has none"
    # What is much longer is meant for none of them, and comparing takes time.
    close = get_close_matches(like, names, 1) if len(like) <= MAXIMUM_NAME_LENGTH else []
    return f"is {close[0]} meant?" if close else f"there are {', '.join(names)}"


def _check_query_names(request: Request, query_names: dict[str, bool]) -> None:
    if not request.scope["query_string"]:
        return
    seen: set[str] = set()
    faults: list[dict[str, Any]] = []
    for name, _ in query_pairs(request):
        if name not in query_names:
            message = f"This parameter is not known here; {_known(query_names, like=name)}"
            faults.append({"loc": ("query", name), "type": "unknown", "msg": message})
        elif name in seen and not query_names[name]:
            message = "This parameter is given more than once"
            faults.append({"loc": ("query", name), "type": "duplicate", "msg": message})
        seen.add(name)
        if len(faults) == MAXIMUM_ERRORS_SHOWN:
            break
    for part in request.scope["query_string"].split(b"&"):
        encoded_name, _, value = part.partition(b"=")
        try:
            unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            # Starlette would put another character in the place of what it cannot read.
            name = unquote(encoded_name.decode("latin-1"))
            faults.append({"loc": ("query", name), "type": "string_unicode", "msg": NOT_UTF_8})
    if faults:
        raise ValidationFailed(errors=field_errors(faults))
