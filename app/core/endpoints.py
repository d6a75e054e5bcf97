"""How an endpoint is called: what FastAPI finds out about it, worked out once and not per request.

FastAPI looks at an endpoint's dependencies and parameters anew for each request, in a way that is
ready for everything. Here it is ready for what this service uses: dependencies that are async
functions or generators, parameters in the path, the query and the headers, and a body of JSON or
of a form. What it is not ready for is refused when the endpoint is declared.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from fastapi._compat import ModelField

Faults = list[dict[str, Any]]
Pairs = list[tuple[str, str]]
Overrides = dict[Callable[..., Any] | None, Callable[..., Any]]


def query_pairs(request: Request) -> Pairs:
    """The parameters of the query in their order, read once."""
    scope = request.scope
    pairs: Pairs | None = scope.get("taskflow.query")
    if pairs is None:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        scope["taskflow.query"] = pairs
    return pairs


def _takes_several(annotation: object) -> bool:
    return get_origin(annotation) is list or any(map(_takes_several, get_args(annotation)))


def parameter_names(model_field: "ModelField") -> dict[str, bool]:
    """The names of a parameter, or of those in a model of parameters; and which may be repeated."""
    annotation = model_field.field_info.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            info.alias or name: _takes_several(info.annotation)
            for name, info in annotation.model_fields.items()
        }
    return {model_field.alias: _takes_several(annotation)}


class _Parameter:
    """A parameter, or a model of parameters, and where its value is."""

    def __init__(self, model_field: "ModelField", place: str) -> None:
        self.name = model_field.name
        self.alias = model_field.alias
        self.header = self.alias.lower().encode()
        self._validator = model_field._type_adapter.validator.validate_python  # noqa: SLF001 - without the layers around it
        info = model_field.field_info
        annotation = info.annotation
        self.is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        self.is_form = isinstance(info, Form)
        self.takes_several = _takes_several(annotation)
        self._required = info.is_required()
        self._default = None if self._required else info.get_default(call_default_factory=True)
        self._location = (place,) if self.is_model or place == "body" else (place, self.alias)
        self._names = parameter_names(model_field)

    def of_pairs(self, pairs: Pairs) -> Any:  # noqa: ANN401 - not validated yet
        """What the query holds for it; None for nothing."""
        if not self.is_model:
            values = [value for name, value in pairs if name == self.alias]
            return (values if self.takes_several else values[-1]) if values else None
        found: dict[str, Any] = {}
        for name, value in pairs:
            if self._names.get(name):
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
        return found

    def validate(self, given: Any, values: dict[str, Any], faults: Faults) -> None:  # noqa: ANN401 - see above
        """Put the value of what is given into the values, or say what is wrong with it."""
        if given is not None or self._location == ("body",):
            try:
                values[self.name] = self._validator(given, from_attributes=True)
            except ValidationError as error:
                for fault in error.errors(include_url=False):
                    faults.append({**fault, "loc": (*self._location, *fault["loc"])})
        elif self._required:
            self._missing(faults)
        else:
            default = self._default
            values[self.name] = [*default] if type(default) is list else copy(default)

    async def validate_body(self, known: "Known", values: dict[str, Any]) -> None:
        """`validate` for what is in the body, as JSON or as a form."""
        if self.is_form:
            # What is left empty in a form is not given.
            form = cast("Pairs", (await known.request.form()).multi_items())
            pairs = [(name, value) for name, value in form if value]
            self.validate(self.of_pairs(pairs), values, known.faults)
        elif known.body:
            self.validate(await known.request.json(), values, known.faults)
        else:
            self._missing(known.faults)

    def _missing(self, faults: Faults) -> None:
        faults.append({"type": "missing", "loc": self._location, "msg": "", "input": None})


@dataclass(slots=True)
class Known:
    """What is known of a request while its endpoint is called."""

    request: Request
    response: Response
    body: bytes
    faults: Faults = field(default_factory=list)
    solved: dict[object, Any] = field(default_factory=dict)


class Call:
    """A function whose arguments come from a request: an endpoint, or what one depends on."""

    def __init__(self, dependant: Dependant) -> None:
        call = cast("Callable[..., Any]", dependant.call)
        self.key: object = call
        self.is_generator = inspect.isasyncgenfunction(call)
        asynchronous = call if inspect.isroutine(call) else cast("Any", call).__call__
        if not (self.is_generator or inspect.iscoroutinefunction(asynchronous)):
            raise TypeError(f"{call} is neither an async function nor an async generator")
        if (
            dependant.cookie_params
            or dependant.background_tasks_param_name
            or dependant.security_scopes_param_name
            or dependant.http_connection_param_name
            or dependant.websocket_param_name
        ):
            raise TypeError(f"{call} takes what no endpoint here is given")
        if not all(sub.use_cache for sub in dependant.dependencies):
            raise TypeError(f"{call} depends on what is to be called more than once")
        self.function: Callable[..., Any] = asynccontextmanager(call) if self.is_generator else call
        self.needs = [(sub.name, sub.call) for sub in dependant.dependencies if sub.name]
        self._path = [_Parameter(one, "path") for one in dependant.path_params]
        self._query = [_Parameter(one, "query") for one in dependant.query_params]
        self._headers = [_Parameter(one, "header") for one in dependant.header_params]
        self._body = [_Parameter(one, "body") for one in dependant.body_params]
        self._request_name = dependant.request_param_name
        self._response_name = dependant.response_param_name

    async def arguments(self, known: Known) -> dict[str, Any]:
        """The arguments; what is wrong with them is added to the faults."""
        request, faults = known.request, known.faults
        values: dict[str, Any] = {}
        for name, key in self.needs:
            values[name] = known.solved.get(key)
        for parameter in self._path:
            given = request.scope["path_params"].get(parameter.alias)
            parameter.validate(given, values, faults)
        for parameter in self._query:
            parameter.validate(parameter.of_pairs(query_pairs(request)), values, faults)
        for parameter in self._headers:
            parameter.validate(_header(request.scope["headers"], parameter), values, faults)
        for parameter in self._body:
            await parameter.validate_body(known, values)
        if self._request_name is not None:
            values[self._request_name] = request
        if self._response_name is not None:
            values[self._response_name] = known.response
        return values


def _in_order(dependant: Dependant, calls: dict[object, Call]) -> None:
    """Add to `calls` what an endpoint depends on, each once and before what needs it."""
    for sub in dependant.dependencies:
        _in_order(sub, calls)
    calls.setdefault(dependant.call, Call(dependant))


def _overridden(dependant: Dependant, overrides: Overrides) -> Dependant:
    """The dependant with its dependencies replaced by `overrides`, which are all asynchronous."""
    dependencies = [
        get_dependant(path=sub.path or "", call=overrides[sub.call], name=sub.name)
        if sub.call in overrides
        else _overridden(sub, overrides)
        for sub in dependant.dependencies
    ]
    return replace(dependant, dependencies=dependencies)


def _asynchronous(call: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(call):
        raise TypeError(f"{call} is a generator that is not asynchronous")
    is_asynchronous = (
        inspect.iscoroutinefunction(call)
        or inspect.isasyncgenfunction(call)
        or inspect.iscoroutinefunction(type(call).__call__)
    )
    if is_asynchronous:
        return call

    @wraps(call)
    async def call_it(**arguments: Any) -> Any:  # noqa: ANN401 - what the function gives
        return call(**arguments)

    return call_it


def _header(headers: Sequence[tuple[bytes, bytes]], parameter: _Parameter) -> Any:  # noqa: ANN401 - not validated yet
    given = [value.decode("latin-1") for name, value in headers if name == parameter.header]
    if not given:
        return None
    return given if parameter.takes_several else given[0]


class _Answer(Response):
    """An answer whose body is not known yet, for which Starlette would work out headers."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.background = None
        self.body = b""
        self.raw_headers = []


class Endpoint:
    """Answers requests by an endpoint's function and the dependencies of it.

    As in FastAPI, the application's `dependency_overrides` replace dependencies.
    """

    def __init__(self, dependant: Dependant, *, status_code: int | None) -> None:
        self._dependant = dependant
        calls: dict[object, Call] = {}
        _in_order(dependant, calls)
        *self._depends_on, self._endpoint = calls.values()
        self._opens = any(call.is_generator for call in self._depends_on)
        self._has_body = bool(dependant.body_params)
        self._status_code = int(status_code or HTTPStatus.OK)

    async def __call__(self, request: Request) -> Response:
        """The answer: what the function gives as JSON, unless that is an answer itself.

        Raises `RequestValidationError` if an argument is not valid.
        """
        if overrides := request.app.dependency_overrides:
            # Each is wrapped once: a dependency that two others share is called once.
            overrides = {call: _asynchronous(other) for call, other in overrides.items()}
            other = Endpoint(_overridden(self._dependant, overrides), status_code=self._status_code)
            return await other._answer(request)
        return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        body = await request.body() if self._has_body else b""
        known = Known(request, _Answer(self._status_code), body)
        if self._opens:
            async with AsyncExitStack() as stack:
                given = await self._call(known, stack)
        else:
            given = await self._call(known, None)
        if isinstance(given, Response):
            return given
        # The function has given what its annotation says: mypy has checked it.
        content: bytes = given.__pydantic_serializer__.to_json(given)
        response = known.response
        response.body = content
        response.raw_headers += (
            (b"content-length", b"%d" % len(content)),
            (b"content-type", b"application/json"),
        )
        return response

    async def _call(self, known: Known, stack: AsyncExitStack | None) -> Any:  # noqa: ANN401 - what the function gives
        solved = known.solved
        for call in self._depends_on:
            before = len(known.faults)
            values = await call.arguments(known)
            lacks = before > 0 and any(key not in solved for _, key in call.needs)
            if lacks or len(known.faults) > before:
                # A dependency of its own was not called, or its own parameters are not valid. It is
                # left out, and the others tell what is wrong with theirs.
                continue
            if call.is_generator and stack is not None:
                solved[call.key] = await stack.enter_async_context(call.function(**values))
            else:
                solved[call.key] = await call.function(**values)
        values = await self._endpoint.arguments(known)
        if known.faults:
            raise RequestValidationError(known.faults)
        return await self._endpoint.function(**values)
