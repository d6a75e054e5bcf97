"""Column types for what the driver would misread.

asyncpg takes the first and the last moment of Python's calendar for PostgreSQL's infinities. People
do write 9999-12-31, for "never"; sent as text it means what it says.
"""

from datetime import date
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Date, DateTime, String, cast, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class _ISOText(TypeDecorator[date]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: date | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else value.isoformat()


class WholeDate(TypeDecorator[date]):
    """A date, over all of Python's range."""

    impl = Date
    cache_ok = True

    def bind_expression(self, bindparam: BindParameter[Any]) -> ColumnElement[Any]:
        return cast(type_coerce(bindparam, _ISOText()), self.impl_instance)


class WholeInstant(TypeDecorator[date]):
    """An instant, over all of Python's range."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_expression(self, bindparam: BindParameter[Any]) -> ColumnElement[Any]:
        return cast(type_coerce(bindparam, _ISOText()), self.impl_instance)
