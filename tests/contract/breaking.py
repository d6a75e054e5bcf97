"""What of a change of the document would break a client: a comparison of two documents.

A client may rely on every operation, on sending what it could send, and on getting what it could
get. So what is sent may only become wider, and what is answered only narrower or more.
"""

from collections.abc import Iterator
from typing import Any, Literal

Document = dict[str, Any]
Schema = dict[str, Any]
Direction = Literal["sent", "answered"]
METHODS = ("get", "put", "post", "delete", "patch")
# Bounds that admit less as they grow, and those that admit less as they shrink.
LOWER = ("minimum", "minLength", "minItems")
UPPER = ("maximum", "maxLength", "maxItems")


def breaking_changes(old: Document, new: Document) -> list[str]:
    """Each change from `old` to `new` that breaks clients, in words; none if all is well."""
    return [
        f"{operation}: {change}"
        for operation in _operations(old)
        for change in _operation(old, new, *operation.split(" "))
    ]


def _operations(document: Document) -> Iterator[str]:
    for path, item in document["paths"].items():
        yield from (f"{method} {path}" for method in METHODS if method in item)


def _operation(old: Document, new: Document, method: str, path: str) -> Iterator[str]:
    if method not in new["paths"].get(path, {}):
        yield "is gone"
        return
    before, after = old["paths"][path][method], new["paths"][path][method]
    if before["operationId"] != after["operationId"]:
        yield f"is now called {after['operationId']}"
    if after["security"] and not any(one in before["security"] for one in after["security"]):
        yield "needs another credential or scope"
    yield from _parameters(old, new, before, after)
    yield from _body(old, new, before, after)
    yield from _responses(old, new, before, after)


def _parameters(old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    known = {(it["in"], it["name"]): it for it in before.get("parameters", [])}
    present = {(it["in"], it["name"]): it for it in after.get("parameters", [])}
    for key, parameter in known.items():
        where = f"{key[0]}.{key[1]}"
        if key not in present:
            yield f"{where} is gone"
            continue
        if present[key].get("required") and not parameter.get("required"):
            yield f"{where} is now required"
        yield from Comparison(old, new, "sent").of(
            parameter["schema"], present[key]["schema"], where
        )
    for key, parameter in present.items():
        if key not in known and parameter.get("required"):
            yield f"{key[0]}.{key[1]} is new and required"


def _body(old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    contents = before.get("requestBody", {}).get("content", {})
    present = after.get("requestBody", {}).get("content", {})
    if after.get("requestBody", {}).get("required") and not before.get("requestBody", {}).get(
        "required"
    ):
        yield "a body is now required"
    for media_type, content in contents.items():
        if media_type not in present:
            yield f"takes no {media_type} any more"
        else:
            yield from Comparison(old, new, "sent").of(
                content["schema"], present[media_type]["schema"], "body"
            )


def _responses(old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    for status, response in before["responses"].items():
        if status not in after["responses"]:
            # A client that waits for an error that never comes is none the worse.
            if status.startswith("2"):
                yield f"never answers {status} any more"
            continue
        known, present = _resolve(old, response), _resolve(new, after["responses"][status])
        for name in known.get("headers", {}):
            if name not in present.get("headers", {}):
                yield f"{status} has no {name} any more"
        for media_type, content in known.get("content", {}).items():
            if media_type not in present.get("content", {}):
                yield f"{status} is no {media_type} any more"
            else:
                yield from Comparison(old, new, "answered").of(
                    content["schema"], present["content"][media_type]["schema"], status
                )
    yield from (
        f"answers {status}, which is new"
        for status in after["responses"]
        if status.startswith("2") and status not in before["responses"]
    )


def _resolve(document: Document, node: Schema) -> Schema:
    if "$ref" not in node:
        return node
    target: Any = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return _resolve(document, target)


def _types(schema: Schema) -> set[str]:
    kind = schema.get("type", [])
    return set(kind if isinstance(kind, list) else [kind])


class Comparison:
    """Compares schemas of two documents for what is `sent` or `answered`."""

    def __init__(self, old: Document, new: Document, direction: Direction) -> None:
        self._old = old
        self._new = new
        self._direction = direction
        self._met: set[tuple[str, str]] = set()

    def of(self, before: Schema, after: Schema, where: str) -> Iterator[str]:
        """Each breaking change from `before` to `after`, told by `where` it is."""
        pair = (before.get("$ref", ""), after.get("$ref", ""))
        if all(pair):
            if pair in self._met:
                return
            self._met.add(pair)
        before, after = _resolve(self._old, before), _resolve(self._new, after)
        if self._direction == "sent":
            yield from self._narrowed(before, after, where, "is refused now")
        else:
            yield from self._narrowed(after, before, where, "is new")
        yield from self._properties(before, after, where)
        if "items" in before and "items" in after:
            yield from self.of(before["items"], after["items"], f"{where}[]")
        for keyword in ("anyOf", "oneOf"):
            yield from self._choices(
                before.get(keyword, []), after.get(keyword, []), f"{where} {keyword}"
            )

    def _narrowed(self, wide: Schema, narrow: Schema, where: str, verdict: str) -> Iterator[str]:
        """What `wide` admits and `narrow` does not; bounds count only where they refuse."""
        for kind in sorted(_types(wide) - _types(narrow)):
            if kind != "integer" or "number" not in _types(narrow):
                yield f"{where}: {kind} {verdict}"
        if {"enum", "const"} & narrow.keys():
            yield from self._values(wide, narrow, where, verdict)
        if self._direction == "sent":
            yield from self._bounds(wide, narrow, where)

    @staticmethod
    def _bounds(wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        infinity = float("inf")
        for name in LOWER:
            if narrow.get(name, -infinity) > wide.get(name, -infinity):
                yield f"{where}: {name} has risen"
        for name in UPPER:
            if narrow.get(name, infinity) < wide.get(name, infinity):
                yield f"{where}: {name} has fallen"
        for name in ("pattern", "format"):
            if name in narrow and narrow[name] != wide.get(name):
                yield f"{where}: {name} is another"

    @staticmethod
    def _values(wide: Schema, narrow: Schema, where: str, verdict: str) -> Iterator[str]:
        admitted = narrow.get("enum", [narrow.get("const")])
        known = wide.get("enum", [wide["const"]] if "const" in wide else None)
        if known is None:
            yield f"{where}: other values than {admitted} {verdict}"
            return
        for value in known:
            if value not in admitted:
                yield f"{where}: {value!r} {verdict}"

    def _properties(self, before: Schema, after: Schema, where: str) -> Iterator[str]:
        known, present = before.get("properties", {}), after.get("properties", {})
        required, now_required = set(before.get("required", [])), set(after.get("required", []))
        for name, schema in known.items():
            if name not in present:
                yield f"{where}.{name} is gone"
            else:
                yield from self.of(schema, present[name], f"{where}.{name}")
        if self._direction == "sent":
            yield from (f"{where}.{name} is now required" for name in now_required - required)
        else:
            yield from (
                f"{where}.{name} may be missing now"
                for name in sorted((required - now_required) & present.keys())
            )

    def _choices(self, before: list[Schema], after: list[Schema], where: str) -> Iterator[str]:
        """Choices are told apart by their name, or by their place where they have none."""
        if not before or not after:
            if before and self._direction == "sent":
                yield f"{where}: a choice is gone"
            elif after and self._direction == "answered":
                yield f"{where}: a choice is new"
            return
        names = [[it.get("$ref", str(it.get("type"))) for it in them] for them in (before, after)]
        gone, new = set(names[0]) - set(names[1]), set(names[1]) - set(names[0])
        for name in sorted(gone if self._direction == "sent" else new):
            yield f"{where}: {name} is {'gone' if self._direction == 'sent' else 'new'}"
        for name, schema in zip(names[0], before, strict=True):
            if name in names[1]:
                yield from self.of(schema, after[names[1].index(name)], where)
