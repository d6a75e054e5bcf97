"""What is the same for many operations and schemas goes into the document here, once.

Each pass takes the document as FastAPI made it and changes it in place. What an operation can
answer beyond its own errors follows from its route; so a new operation has all of it for free.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.core.conditions import ENTITY_TAGS_PATTERN
from app.core.errors import APIError, MethodNotAllowed, NotFound, described, document_errors
from app.core.routing import StrictRoute
from app.core.schemas import NULL

API_KEY_SCHEME = "ApiKey"
METHODS = ("get", "put", "post", "delete", "patch")
# An RFC 3339 instant with nine digits of a second and an offset is the longest that is taken.
LENGTHS_BY_FORMAT = {"date-time": 35, "date": 10}
INT32_MAXIMUM = 2**31 - 1

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": (
            "The request's id: the client's own if it sent one of 1 to 128 letters, digits, `.`, "
            "`_` or `-`, else a new one. It is in every line of the service's log on the request."
        ),
        "required": True,
        "schema": {
            "type": "string",
            "maxLength": 128,
            "pattern": "^[A-Za-z0-9._-]+$",
            "examples": ["5f0c1c9e2b7d4d0f9a51c9a4d7a3b1e8"],
        },
    },
    "Access-Control-Allow-Origin": {
        "description": "There where the operator lets the pages of other origins call the service.",
        "schema": {
            "type": "string",
            "maxLength": 1_000,
            "pattern": "^[ -~]*$",
            "examples": ["https://app.example.com"],
        },
    },
    "RateLimit-Policy": {
        "description": (
            "The limits that the call counts under, each with its quota `q` for a window of `w` "
            "seconds. Absent where the operator has set none, or the request met none."
        ),
        "schema": {
            "type": "string",
            "maxLength": 1_000,
            "pattern": "^[ -~]*$",
            "examples": ['"api";q=6000;w=60'],
        },
    },
    "RateLimit": {
        "description": "What remains of each limit, `r`, and the seconds to a new window, `t`.",
        "schema": {
            "type": "string",
            "maxLength": 1_000,
            "pattern": "^[ -~]*$",
            "examples": ['"api";r=5999;t=60'],
        },
    },
    "Retry-After": {
        "description": "Seconds to wait before another try.",
        "required": True,
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": INT32_MAXIMUM,
            "examples": [1],
        },
    },
    "WWW-Authenticate": {
        "description": "The challenge of RFC 6750: `Bearer`, and what a credential lacks.",
        "required": True,
        "schema": {
            "type": "string",
            "maxLength": 1_000,
            "pattern": "^Bearer",
            "examples": ["Bearer"],
        },
    },
}
ALWAYS = ("X-Request-ID", "Access-Control-Allow-Origin")
HEADERS_BY_CODE = {
    "unauthenticated": "WWW-Authenticate",
    "insufficient_scope": "WWW-Authenticate",
    "idempotency_in_flight": "Retry-After",
    "rate_limited": "Retry-After",
    "database_unavailable": "Retry-After",
    "overloaded": "Retry-After",
    "shutting_down": "Retry-After",
}


def refine(document: dict[str, Any], app: FastAPI) -> None:
    """All of the passes, in their order."""
    _write_nulls(document)
    _complete_errors(document, app)
    _describe_successes(document)
    _list_error_codes(document)
    _complete_security(document)
    _document_headers(document)
    _join_header_lists(document)
    _accept_merge_patches(document)
    for schema in _schemas(document):
        _tidy(schema)
        _bound(schema)
        _name_members(schema)
    _exemplify_bodies(document)
    _share_responses(document)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def _complete_errors(document: dict[str, Any], app: FastAPI) -> None:
    """Add what the strict route itself can answer; without the 422 that FastAPI would answer."""
    routes = {
        (context.path_format, method.lower()): context.original_route
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }
    for path, method, operation in _operations(document):
        responses = operation["responses"]
        if "HTTPValidationError" in json.dumps(responses.get("422")):
            del responses["422"]
        route = routes[path, method]
        if isinstance(route, StrictRoute):
            _add_errors(responses, route.errors())
        operation["responses"] = dict(sorted(responses.items()))
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_errors(responses: dict[str, Any], errors: Iterable[type[APIError]]) -> None:
    for status, new in document_errors(*errors).items():
        content = {
            "schema": {"$ref": "#/components/schemas/ErrorResponse"},
            "examples": new["content"]["application/json"]["examples"],
        }
        there = responses.setdefault(str(status), {"description": "", "content": {}})
        examples = there["content"].setdefault("application/json", content)["examples"]
        for code, example in content["examples"].items():
            examples.setdefault(code, example)
        there["description"] = described(examples)


def _describe_successes(document: dict[str, Any]) -> None:
    """Where no words were found for a success, those of its schema."""
    schemas = document["components"]["schemas"]
    for _, _, operation in _operations(document):
        for response in operation["responses"].values():
            if response["description"] == "Successful Response":
                reference = response["content"]["application/json"]["schema"]["$ref"]
                response["description"] = schemas[reference.rpartition("/")[2]]["description"]


def _list_error_codes(document: dict[str, Any]) -> None:
    """Each code of an error that some operation has, or that there is where no operation is."""
    found = {(error.status, error.code): error.message for error in (NotFound, MethodNotAllowed)}
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            for code, example in content.get("examples", {}).items():
                found.setdefault((int(status), code), example["summary"])
    rows = [f"| {status} | `{code}` | {words} |" for (status, code), words in sorted(found.items())]
    table = "\n".join(["| Status | `code` | |", "| --- | --- | --- |", *rows])
    # Folded up, so that who opens the page meets the calls.
    folded = f"<details><summary>All errors</summary>\n\n{table}\n\n</details>"
    document["info"]["description"] += f"\n{folded}\n"


def _write_nulls(node: Any) -> Any:  # noqa: ANN401 - any part of the document
    """The part, with null in the place of each `NULL`."""
    match node:
        case dict():
            for name, value in node.items():
                node[name] = _write_nulls(value)
        case list():
            node[:] = map(_write_nulls, node)
    return None if node == NULL else node


def _complete_security(document: dict[str, Any]) -> None:
    """What needs no credential says so, and what needs one takes a login or an API key.

    A key goes in the same header as a login; of OAuth2, tools would only offer the password.
    """
    document["components"]["securitySchemes"][API_KEY_SCHEME] = {
        "type": "http",
        "scheme": "bearer",
        "description": (
            "An API key from `POST /api/v1/api-keys`, or a login's token. Both are opaque: no "
            "JWTs, for which RFC8725 would hold."
        ),
    }
    for _, _, operation in _operations(document):
        if "security" in operation:
            ((scopes,),) = (requirement.values() for requirement in operation["security"])
            if scopes:
                operation["description"] += f"\n\nNeeds the scope `{' '.join(scopes)}`."
            operation["security"].append({API_KEY_SCHEME: []})
        else:
            operation["security"] = []


def _document_headers(document: dict[str, Any]) -> None:
    shared = document["components"]["headers"] = dict(HEADERS)
    for _, _, operation in _operations(document):
        limits = ("RateLimit-Policy", "RateLimit") if "429" in operation["responses"] else ()
        for response in operation["responses"].values():
            own = response.get("headers", {})
            shared |= own
            references = {
                name: {"$ref": f"#/components/headers/{name}"} for name in (*own, *ALWAYS, *limits)
            }
            response["headers"] = references | _headers_of_codes(response)


def _headers_of_codes(response: dict[str, Any]) -> dict[str, Any]:
    """The headers that come with an error's code; required if they come with each of its codes."""
    codes = response.get("content", {}).get("application/json", {}).get("examples", {})
    names = [HEADERS_BY_CODE.get(code) for code in codes]
    return {
        name: {"$ref": f"#/components/headers/{name}"}
        if len(set(names)) == 1
        else {**HEADERS[name], "required": False}
        for name in names
        if name is not None
    }


def _join_header_lists(document: dict[str, Any]) -> None:
    """A header that may be sent in several lines is one text, its entity tags parted by commas."""
    for _, _, operation in _operations(document):
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            if parameter["in"] == "header" and schema.get("type") == "array":
                examples = [", ".join(example) for example in schema.get("examples", [])]
                parameter["schema"] = {
                    "type": "string",
                    "maxLength": 8_192,
                    "pattern": ENTITY_TAGS_PATTERN,
                    "examples": examples,
                }


def _accept_merge_patches(document: dict[str, Any]) -> None:
    for _, method, operation in _operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if method == "patch" and "application/json" in content:
            content["application/merge-patch+json"] = content["application/json"]


def _schemas(node: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any part of the document
    """Each schema in a part of the document, the inner ones too."""
    if isinstance(node, list):
        for item in node:
            yield from _schemas(item)
    elif isinstance(node, dict):
        if isinstance(node.get("type"), str | list) or {"anyOf", "oneOf", "$ref"} & node.keys():
            yield node
        for name, item in node.items():
            if name not in {"example", "examples", "default", "enum", "const"}:
                yield from _schemas(item)


def _tidy(schema: dict[str, Any]) -> None:
    """Take out what a generator leaves behind: titles that repeat the name, floats for integers."""
    if isinstance(schema.get("title"), str):
        del schema["title"]
    for name in ("minimum", "maximum"):
        if isinstance(schema.get(name), float) and schema[name].is_integer():
            schema[name] = int(schema[name])
    for member in schema.get("properties", {}).values():
        if member.get("type") == "null":
            # Go and Rust have no type that is null alone.
            member.update(type=["object", "null"], const=None)
    if all("$ref" in member for member in schema.get("anyOf", [{}])):
        # No value is of two of our models; a generator that knows can make one type of each.
        schema["oneOf"] = schema.pop("anyOf")
    # Each model of a choice has a constant of its own to be told by. A generator for Rust that is
    # also told its name sends it twice.
    schema.pop("discriminator", None)
    match schema.get("anyOf"):
        case [{"type": str(kind)} as value, {"type": "null"}]:
            del schema["anyOf"]
            inner = dict(value)
            _tidy(inner)
            schema.update({**inner, "type": [kind, "null"], **schema})


def _bound(schema: dict[str, Any]) -> None:
    """The bounds that follow from a schema's format or from its other bounds."""
    kinds = schema.get("type")
    if "integer" in (kinds if isinstance(kinds, list) else [kinds]):
        small = schema.get("maximum", INT32_MAXIMUM + 1) <= INT32_MAXIMUM
        schema.setdefault("format", "int32" if small else "int64")
    if schema.get("format") in LENGTHS_BY_FORMAT:
        schema.setdefault("maxLength", LENGTHS_BY_FORMAT[schema["format"]])


def _name_members(schema: dict[str, Any]) -> None:
    """Names where values differ by a sign: generators number them, and one more renames all."""
    values = schema.get("enum", [])
    if any(str(value).startswith("-") for value in values):
        schema["x-enum-varnames"] = [
            "".join(word.capitalize() for word in re.findall("[a-z]+", value))
            + ("Desc" if value.startswith("-") else "")
            for value in values
        ]


def _exemplify_bodies(document: dict[str, Any]) -> None:
    """An example for each body: its model's own, or that of all of its fields together."""
    schemas = document["components"]["schemas"]
    for _, _, operation in _operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            model = schemas[content["schema"]["$ref"].rpartition("/")[2]]
            fields = model["properties"].items()
            own = model.get("examples") or [{name: field["examples"][0] for name, field in fields}]
            content["example"] = own[0]


def _share_responses(document: dict[str, Any]) -> None:
    """Errors that several operations answer alike stand in the document once, named by codes.

    Of those that have the same codes and other headers, the most frequent has the name.
    """
    by_content: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                content = json.dumps(response, sort_keys=True)
                by_content.setdefault(content, []).append((operation, status))
    shared = document["components"].setdefault("responses", {})
    for content, places in sorted(by_content.items(), key=lambda it: len(it[1]), reverse=True):
        response = json.loads(content)
        body = response.get("content", {}).get("application/json", {})
        codes = list(body.get("examples", {}))
        name = "Or".join(re.sub("(^|_)([a-z])", lambda it: it[2].upper(), code) for code in codes)
        if len(places) == 1 or not codes or name in shared:
            continue
        shared[name] = response
        for operation, status in places:
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
