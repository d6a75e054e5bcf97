"""Holds every answer against the reviewed document: what is not in there is a fault.

An answer must have a status, a media type, headers, fields and an error code that its operation
documents, and all that is required. `watch_answers` does so with what any client of httpx gets.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

REVIEWED = Path(__file__).with_name("openapi.json")
# Of HTTP itself and of every answer; what tells something of the answer's own is documented.
GENERAL_HEADERS = {
    "access-control-expose-headers",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "pragma",
    "referrer-policy",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
    "x-frame-options",
}
# What the contract sets outside of the document: pages, files and redirects.
UNDOCUMENTED_PATHS = re.compile(r"/|/docs|/docs/assets/[^/]+|/metrics|/openapi\.json")
PREFLIGHT_HEADERS = {
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-max-age",
}
EMPTY = {204, 304}


class UndocumentedAnswer(AssertionError):
    """The service answered what its document does not say."""


class Conformance:
    """The judge of answers by one document. Schemas are compiled when they are first needed."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._components = _closed(document["components"])
        self._templates = [
            (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), item)
            # A path without parameters goes before one that it also matches.
            for path, item in sorted(document["paths"].items(), key=lambda it: it[0].count("{"))
        ]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def faults(self, response: httpx.Response, *, read: bool = True) -> list[str]:
        """In what the answer differs from the document, in words; the body only if it is `read`."""
        request = response.request
        path = request.url.raw_path.partition(b"?")[0].decode()
        method = request.method.lower()
        operation = self._operation("get" if method == "head" else method, path)
        read = read and method != "head"
        if operation is None:
            return list(self._outside(response, path, read=read))
        documented = operation["responses"].get(str(response.status_code))
        if documented is None:
            return [f"status {response.status_code} is not documented"]
        return list(self._answer(response, self._resolved(documented), read=read))

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, item in self._templates:
            if template.fullmatch(path):
                operation: dict[str, Any] | None = item.get(method)
                return operation
        return None

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in node:
            return node
        target: Any = self._document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return self._resolved(target)

    def _outside(self, response: httpx.Response, path: str, *, read: bool) -> Iterator[str]:
        """What no operation answers: pages, preflights, errors of unknown paths and methods."""
        status = response.status_code
        if UNDOCUMENTED_PATHS.fullmatch(path) and status < httpx.codes.BAD_REQUEST:
            return
        shared = self._document["components"]["headers"]
        headers: dict[str, Any] = {"X-Request-ID": shared["X-Request-ID"]} | {
            # A path that no operation has may still be led to a route that counts.
            name: shared[name] | {"required": False}
            for name in ("Access-Control-Allow-Origin", "RateLimit", "RateLimit-Policy")
        }
        if response.request.method == "OPTIONS" and status == httpx.codes.NO_CONTENT:
            yield from self._headers(response, headers, also=PREFLIGHT_HEADERS)
            return
        if status < httpx.codes.BAD_REQUEST:
            yield f"a success, {status}, of something that is not documented"
            return
        if status == httpx.codes.METHOD_NOT_ALLOWED:
            headers["Allow"] = {"required": True, "schema": {"type": "string"}}
        error = {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
        documented = {"content": {"application/json": error}, "headers": headers}
        yield from self._answer(response, documented, read=read)

    def _answer(
        self,
        response: httpx.Response,
        documented: dict[str, Any],
        *,
        read: bool,
    ) -> Iterator[str]:
        yield from self._headers(response, documented.get("headers", {}))
        contents = documented.get("content", {})
        if response.status_code in EMPTY or not contents:
            if read and response.content:
                yield "there should be no body"
            return
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if media_type not in contents:
            yield f"media type {media_type!r} is not documented"
        elif media_type == "application/json" and read:
            yield from self._body(response, contents[media_type])

    def _headers(
        self,
        response: httpx.Response,
        documented: dict[str, Any],
        *,
        also: Iterable[str] = (),
    ) -> Iterator[str]:
        known = {name.lower(): self._resolved(header) for name, header in documented.items()}
        for name, header in known.items():
            if name not in response.headers:
                if header.get("required"):
                    yield f"header {name} is missing"
                continue
            value: Any = response.headers[name]
            if header["schema"]["type"] == "integer" and value.isdecimal():
                value = int(value)
            for error in self._validator(header["schema"]).iter_errors(value):
                yield f"header {name}: {error.message}"
        for name in response.headers:
            if name not in {*known, *GENERAL_HEADERS, *also}:
                yield f"header {name} is not documented"

    def _body(self, response: httpx.Response, content: dict[str, Any]) -> Iterator[str]:
        try:
            body = response.json()
        except ValueError:
            yield "the body is not JSON"
            return
        for error in self._validator(content["schema"]).iter_errors(body):
            where = ".".join(map(str, error.instance_path))
            yield f"body{where and '.' + where}: {error.message}"
        if response.is_error and isinstance(body, dict) and "examples" in content:
            # RFC 6749 has its codes in another field.
            code = body.get("code", body.get("error"))
            if code not in content["examples"]:
                yield f"code {code!r} is not documented"

    def _validator(self, schema: dict[str, Any]) -> jsonschema_rs.Validator:
        key = schema.get("$ref") or json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = jsonschema_rs.Draft202012Validator(
                {**_closed(schema), "components": self._components},
                validate_formats=True,
                mask="the value",
            )
        return self._validators[key]


def _closed(node: Any) -> Any:
    """The schemas in a part of the document, each open to no fields but those it names."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(item) for name, item in node.items()}
    if isinstance(node.get("properties"), dict) and "type" in node:
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def conformance() -> Conformance:
    """The judge by the reviewed document."""
    return Conformance(json.loads(REVIEWED.read_text()))


_others_answer = False


def check(response: httpx.Response, *, read: bool = True) -> None:
    """Raise `UndocumentedAnswer` with all that is wrong with the answer."""
    if _others_answer:
        return
    if faults := conformance().faults(response, read=read):
        request = response.request
        raise UndocumentedAnswer(
            f"{request.method} {request.url.path} answered {response.status_code}, and "
            f"{REVIEWED.name} knows otherwise (make accept-openapi?): " + "; ".join(faults)
        )


@contextlib.contextmanager
def others_answer() -> Iterator[None]:
    """Within the block others than taskflow are asked, of which the document says nothing."""
    global _others_answer  # noqa: PLW0603 - as global as the watch
    _others_answer = True
    try:
        yield
    finally:
        _others_answer = False


@contextlib.contextmanager
def watch_answers() -> Iterator[None]:
    """Hold every answer that httpx gets against the document, whichever client asks."""
    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    def checked(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        response = send(client, request, **options)
        check(response, read=not options.get("stream"))
        return response

    async def checked_async(
        client: httpx.AsyncClient, request: httpx.Request, **options: Any
    ) -> httpx.Response:
        response = await send_async(client, request, **options)
        check(response, read=not options.get("stream"))
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "send", checked)
        patch.setattr(httpx.AsyncClient, "send", checked_async)
        yield
