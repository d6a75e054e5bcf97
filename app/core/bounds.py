"""Bounds that several features share, and those of answers, which are for the document alone.

What is read from the database was checked when it came in, so answers are not checked again; but
whoever generates a client, or a column for what it gets, learns here how much there can be.
"""

from typing import Annotated

from pydantic import WithJsonSchema

MAXIMUM_ID = 2**53 - 1
"""The largest integer that every JSON client holds exactly."""

MAXIMUM_ERRORS_SHOWN = 50
MAXIMUM_ERRORS = 1_000
"""A batch names each of its operations that is not valid."""

# What text must look like: PostgreSQL cannot hold NUL.
NO_NUL = r"^[^\x00]*$"


def text(max_length: int, *, min_length: int = 0, pattern: str = NO_NUL) -> WithJsonSchema:
    """Documents a string of `min_length` to `max_length` characters that matches `pattern`."""
    bounds = {"minLength": min_length} if min_length else {}
    return WithJsonSchema({"type": "string", **bounds, "maxLength": max_length, "pattern": pattern})


def integer(minimum: int, maximum: int = MAXIMUM_ID) -> WithJsonSchema:
    """Documents an integer from `minimum` to `maximum`."""
    return WithJsonSchema({"type": "integer", "minimum": minimum, "maximum": maximum})


Id = Annotated[int, integer(1)]
Count = Annotated[int, integer(0)]
