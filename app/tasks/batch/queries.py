"""The statements of a batch: one for all of its tasks at a time, each of them guarded.

They take `values_of_actor`, and those that write return the ids of what they have written.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    String,
    and_,
    any_,
    bindparam,
    case,
    column,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.elements import KeyedColumnElement

from app.accounts.credentials import ANY_ACTOR, credential_is_live
from app.accounts.models import User
from app.db.statements import Statement
from app.tasks.batch.workspace import Change, Row
from app.tasks.models import Task
from app.tasks.queries import TASK_IDS, columns, owned_by

WRITTEN = [one for one in columns if one.computed is None]
NULLABLE = {one.name for one in WRITTEN if one.nullable}
UPDATED = [one for one in WRITTEN if one.name not in {"id", "owner_id", "created_at"}]
# What the search looks at.
TEXTS = {"title", "title_key", "description", "tags"}

# A list is one parameter, so that the statement is the same for any number of tasks.
_HAS_AN_ID = columns["id"] == any_(bindparam("ids", type_=ARRAY(BigInteger)))
_HAS_AN_EXTERNAL_ID = columns["external_id"] == any_(bindparam("external_ids", type_=ARRAY(String)))
_GIVEN = (
    func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
    .table_valued(*(column(one.name, one.type) for one in WRITTEN))
    .render_derived(name="given", with_types=True)
)


def _allot_ids() -> Statement:
    owner = select(User.id).where(User.id == ANY_ACTOR.user_id)
    kept = owner.with_for_update(read=True, key_share=True).cte("kept")
    number = func.generate_series(0, bindparam("creates", type_=Integer())).column_valued("number")
    new_id = case((number > 0, func.nextval(TASK_IDS, type_=BigInteger)))
    return Statement(
        select(func.now().label("now"), new_id.label("id")).where(exists(select(kept)))
    )


def _update(written: Sequence[KeyedColumnElement[Any]]) -> Statement:
    given = _GIVEN.c
    values: dict[Any, ColumnElement[Any]] = {
        # What is never null is sent only where it has changed: texts are long.
        one: given[one.name] if one.name in NULLABLE else func.coalesce(given[one.name], one)
        for one in written
    }
    of_actor = and_(Task.id == given.id, owned_by(ANY_ACTOR))
    return Statement(update(Task).where(of_actor).values(values).returning(Task.id))


ALLOT_IDS = _allot_ids()
"""The time, and ids for so many `creates`; the first row has none. No row: no account.

Keeps the account until the end: who closes it locks it before its tasks, and so must a batch, whose
new tasks lock it too, or the two could wait for each other.
"""
LOCK_TASKS = Statement(
    select(*WRITTEN)
    .where(
        owned_by(ANY_ACTOR),
        or_(_HAS_AN_ID, and_(Task.deleted_at.is_(None), _HAS_AN_EXTERNAL_ID)),
    )
    .order_by(Task.id)
    .with_for_update()
)
"""The tasks with these `ids`, and those that hold one of these `external_ids`.

Locked in the order of their ids, so that two batches wait for each other and never in a circle.
"""
DELETE_TASKS = Statement(delete(Task).where(_HAS_AN_ID, owned_by(ANY_ACTOR)).returning(Task.id))
RELEASE_EXTERNAL_IDS = Statement(
    update(Task).where(_HAS_AN_ID, owned_by(ANY_ACTOR)).values(external_id=None).returning(Task.id)
)
UPDATE_TEXTS = _update(UPDATED)
"""Brings the locked tasks to what the `rows` of `differences_of` say."""
UPDATE_OTHERS = _update([one for one in UPDATED if one.name not in TEXTS])
"""The same for tasks whose texts stay, which are not made searchable again then."""
INSERT_TASKS = Statement(
    insert(Task)
    .from_select(
        WRITTEN,
        select(*(_GIVEN.c[one.name] for one in WRITTEN)).where(credential_is_live(ANY_ACTOR)),
    )
    .returning(Task.id)
)
"""Inserts the tasks of `rows_of` with the ids they have."""


def rows_of(tasks: Iterable[Row]) -> list[dict[str, Any]]:
    """The tasks as they are sent, in JSON."""
    return [{name: _as_json(value) for name, value in row.items()} for row in tasks]


def differences_of(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The tasks as they become, without what is never null and stays."""
    return rows_of(_difference(before, after) for before, after in changes)


def _difference(before: Row, after: Row) -> Row:
    return {"id": after["id"]} | {
        one.name: after[one.name]
        for one in UPDATED
        if one.name in NULLABLE or after[one.name] is not before[one.name]
    }


def _as_json(value: Any) -> Any:  # noqa: ANN401 - what a column holds
    return value.isoformat() if isinstance(value, date) else value
