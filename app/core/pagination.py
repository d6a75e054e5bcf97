"""Lists in pages: by number, or by a cursor that stays in place while rows come and go."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Request, Response
from pydantic import MISSING, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.core.bounds import MAXIMUM_ID
from app.core.endpoints import query_pairs
from app.core.errors import ValidationFailed
from app.core.responses import FieldError
from app.core.schemas import Flag, InputModel
from app.core.strict_json import compact_json

CURSOR_MAX_LENGTH = 4096
CURSOR_PATTERN = "^[A-Za-z0-9_-]+$"
MAXIMUM_PER_PAGE = 100
SIGNATURE_BYTES = 16


def _only_digits(value: object) -> object:
    # Pydantic would also take `1_000`, ` 7 ` and `7.0`.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise PydanticCustomError("int_parsing", "Input should be a whole number in digits")
    return value


class PageQuery(InputModel):
    """Which part of a list."""

    page: Annotated[int, BeforeValidator(_only_digits)] = Field(
        # Not a default in the document: clients send those, and a cursor takes no page beside it.
        default_factory=lambda: 1,
        ge=1,
        le=MAXIMUM_ID,
        description="The page, from 1; the first unless told. Not together with `cursor`.",
        examples=[1],
    )
    per_page: Annotated[int, BeforeValidator(_only_digits)] = Field(
        default=20, ge=1, le=MAXIMUM_PER_PAGE, description="How many on a page.", examples=[20]
    )
    count: Flag = Field(
        default=True,
        description="Without counting, `total` and `pages` are null and large lists are faster.",
        examples=[True],
    )
    cursor: str | MISSING = Field(
        default=MISSING,
        max_length=CURSOR_MAX_LENGTH,
        description=(
            "The `next_cursor` of the answer before: continues there, stable while rows come and "
            "go, at the same cost at any depth. Send the same filters, sort and time zone with it."
        ),
        examples=["WyIyMDI2LTExLTIyVDA5OjMwOjAwKzAwOjAwIiw3XZ0"],
        json_schema_extra={"pattern": CURSOR_PATTERN},
    )

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page

    def pages(self, total: int) -> int:
        """How many pages `total` rows fill; 0 when there are none."""
        return -(-total // self.per_page)


def invalid_cursor(
    message: str = "This is no cursor of this list with these filters, sort and time zone",
) -> ValidationFailed:
    return ValidationFailed(
        errors=[FieldError(field="query.cursor", message=message, code="invalid")]
    )


class CursorSigner:
    """Makes cursors that nobody else can make, and that open only where they were made for.

    `secrets` are the service's secret keys: the first signs, all of them are accepted.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._keys = [
            hmac.digest(secret.encode(), b"taskflow cursor", hashlib.sha256) for secret in secrets
        ]

    @staticmethod
    def _signature(key: bytes, content: bytes, binding: object) -> bytes:
        bound = json.dumps(binding, sort_keys=True, default=str).encode()
        message = hashlib.sha256(bound).digest() + content
        return hmac.digest(key, message, hashlib.sha256)[:SIGNATURE_BYTES]

    def make(self, position: Sequence[Any], binding: object) -> str:
        """A cursor at `position`, of JSON values, for the list that `binding` stands for."""
        content = compact_json(position).encode()
        signed = content + self._signature(self._keys[0], content, binding)
        return self._as_text(signed)

    @staticmethod
    def _as_text(signed: bytes) -> str:
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def open(self, cursor: str, binding: object) -> list[Any]:
        """The position in a cursor. Raises a `ValidationFailed` that names `query.cursor`."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", cursor) or len(cursor) % 4 == 1:
            raise invalid_cursor()
        signed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if self._as_text(signed) != cursor:
            # Of its last character not all bits count.
            raise invalid_cursor()
        content, signature = signed[:-SIGNATURE_BYTES], signed[-SIGNATURE_BYTES:]
        if not any(
            hmac.compare_digest(self._signature(key, content, binding), signature)
            for key in self._keys
        ):
            raise invalid_cursor()
        position: list[Any] = json.loads(content)
        return position


async def _cursors(request: Request) -> CursorSigner:
    signer: CursorSigner = request.app.state.cursors
    return signer


Cursors = Annotated[CursorSigner, Depends(_cursors)]

# Node's fetch takes 16 KiB of headers in all, nginx 4 or 8 unless told.
LINK_MAXIMUM_LENGTH = 8 * 1024
LINK_HEADER: dict[str, Any] = {
    "Link": {
        "description": (
            "The `first`, `prev`, `next` and `last` page where they exist (RFC 8288); with a "
            "cursor, the `next`. Only the `next` where all would have more than 8 KiB, which many "
            "clients and proxies do not take, and none where that has more."
        ),
        "schema": {
            "type": "string",
            "maxLength": LINK_MAXIMUM_LENGTH,
            "pattern": "^[ -~]*$",
            "examples": ['</api/v1/tasks?page=2>; rel="next"'],
        },
    },
}


def add_links(
    request: Request,
    response: Response,
    query: PageQuery,
    *,
    pages: int | None,
    next_cursor: str | None,
) -> None:
    """Tell in the `Link` of the response where the other parts of the list are.

    `pages` is null if they were not counted.
    """
    kept = [pair for pair in query_pairs(request) if pair[0] not in {"page", "cursor"}]
    base = f"{request.scope['path']}?{urlencode(kept)}{'&' if kept else ''}"

    def link(relation: str, name: str, value: object) -> str:
        return f'<{base}{name}={value}>; rel="{relation}"'

    links = []
    if query.cursor is not MISSING:
        if next_cursor:
            links.append(link("next", "cursor", next_cursor))
    else:
        links.append(link("first", "page", 1))
        previous = query.page - 1 if pages is None else min(query.page - 1, pages)
        if previous >= 1:
            links.append(link("prev", "page", previous))
        if next_cursor:
            links.append(link("next", "page", query.page + 1))
        if pages:
            links.append(link("last", "page", pages))
    for some in (links, [one for one in links if one.endswith('rel="next"')]):
        value = ", ".join(some)
        if value and len(value) <= LINK_MAXIMUM_LENGTH:
            response.headers["Link"] = value
            return
