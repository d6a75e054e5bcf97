"""Conditional requests (RFC 9110, section 13): entity tags, and what clients say about them."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Response

from app.core.errors import ValidationFailed
from app.core.responses import FieldError

_ENTITY_TAG = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
# Empty elements of a list are to be ignored (RFC 9110, section 5.6.1).
_LIST = re.compile(rf"[ \t,]*{_ENTITY_TAG}(?:[ \t]*,[ \t,]*{_ENTITY_TAG})*[ \t,]*")
ENTITY_TAGS_PATTERN = r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$'
"""What clients should send, for the document; what else the RFC wants to be taken is taken."""


@dataclass(frozen=True, slots=True)
class EntityTags:
    """What a condition names: `any` thing there is, or the tags, without their quotes."""

    any: bool
    strong: frozenset[str]
    weak: frozenset[str]

    def match_weakly(self, tag: str) -> bool:
        return self.any or tag in self.strong or tag in self.weak


def parse_entity_tags(lines: list[str], *, field: str) -> EntityTags | None:
    """The condition in all lines of a header together, none without a line.

    Raises a `ValidationFailed` that names `field`.
    """
    if not lines:
        return None
    value = ", ".join(lines)
    if value.strip(" \t") == "*":
        return EntityTags(any=True, strong=frozenset(), weak=frozenset())
    if not _LIST.fullmatch(value):
        message = "This is neither * nor a list of entity tags in quotes"
        raise ValidationFailed(errors=[FieldError(field=field, message=message, code="invalid")])
    found = re.findall(_ENTITY_TAG, value)
    return EntityTags(
        any=False,
        strong=frozenset(tag for weak, tag in found if not weak),
        weak=frozenset(tag for weak, tag in found if weak),
    )


IfMatch = Annotated[
    list[str],
    Header(
        alias="If-Match",
        default_factory=list,
        description="Only if the ETag is one of these, or `*` for whatever it is; else 412.",
        examples=[['"7-3"']],
    ),
]
IfNoneMatch = Annotated[
    list[str],
    Header(
        alias="If-None-Match",
        default_factory=list,
        description="Only if the ETag is none of these; `*`: only if there is nothing.",
        examples=[['"7-3"']],
    ),
]


def set_entity_tag(response: Response, tag: str) -> None:
    """Let clients keep the answer, and have them ask each time whether it still holds."""
    response.raw_headers += (
        (b"etag", f'"{tag}"'.encode()),
        (b"cache-control", b"private, no-cache"),
    )
