"""Statements that are written with SQLAlchemy, compiled once, and run by asyncpg itself.

SQLAlchemy takes longer to build and to execute a statement than PostgreSQL takes to answer it. What
every request runs is built once with `bindparam`s, and only its values are new.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Enum, Executable
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from app.core.strict_json import compact_json

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler

DIALECT = asyncpg.dialect(json_serializer=compact_json)  # type: ignore[no-untyped-call]  # SQLAlchemy's own


class Statement:
    """The SQL of a SQLAlchemy statement, and in which order it takes its values.

    Each `bindparam` without a value is given the value of its name in `arguments`; what was bound
    when the statement was built stays the same.

    PostgreSQL may keep one plan per connection for all values, unless `planned_anew` says that the
    best plan depends on them.
    """

    def __init__(self, statement: Executable, *, planned_anew: bool = False) -> None:
        self.planned_anew = planned_anew
        compiled = cast("SQLCompiler", cast("ClauseElement", statement).compile(dialect=DIALECT))
        self.sql = compiled.string
        self._parameters = [
            (bind.key if bind.required else None, bind.effective_value, _processor(bind))
            for bind in (compiled.binds[name] for name in compiled.positiontup or ())
        ]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """The values in the statement's order, as the driver takes them."""
        arguments = []
        for name, own, process in self._parameters:
            value = own if name is None else values[name]
            arguments.append(value if process is None else process(value))
        return arguments


def _processor(bind: BindParameter[Any]) -> Callable[[Any], Any] | None:
    if isinstance(bind.type, Enum):
        # Members of a `StrEnum` are the text that the driver takes.
        return None
    return bind.type.dialect_impl(DIALECT).bind_processor(DIALECT)
