"""The statements of a batch: one for all of its tasks at a time, each of them guarded.

Those that write return the ids of what they have written.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    TableValuedAlias,
    and_,
    any_,
    case,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.elements import KeyedColumnElement

from app.accounts.credentials import Actor, credential_is_live
from app.accounts.models import User
from app.tasks.batch.workspace import Change, Row
from app.tasks.models import Task
from app.tasks.queries import TASK_IDS, columns, owned_by

WRITTEN = [one for one in columns if one.computed is None]
NULLABLE = {one.name for one in WRITTEN if one.nullable}
UPDATED = [one for one in WRITTEN if one.name not in {"id", "owner_id", "created_at"}]
# What the search looks at.
TEXTS = {"title", "title_key", "description", "tags"}


def allot_ids(actor: Actor, creates: int) -> Select[Any]:
    """The time, and ids for so many new tasks; the first row has none. No row: no account.

    Keeps the account until the end: who closes it locks it before its tasks, and so must a batch,
    whose new tasks lock it too, or the two could wait for each other.
    """
    owner = select(User.id).where(User.id == actor.user_id)
    kept = owner.with_for_update(read=True, key_share=True).cte("kept")
    number = func.generate_series(0, creates).column_valued("number")
    new_id = case((number > 0, func.nextval(TASK_IDS, type_=BigInteger)))
    return select(func.now().label("now"), new_id.label("id")).where(exists(select(kept)))


def _is_any_of(one: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Like `IN`, with one parameter: the statement's text is the same for any number of values."""
    return one == any_(literal(list(values), ARRAY(one.type)))


def lock_tasks(actor: Actor, ids: Iterable[int], external_ids: Iterable[str]) -> Select[Any]:
    """The tasks with these ids, and those that hold one of these external_ids.

    Locked in the order of their ids, so that two batches wait for each other and never in a circle.
    """
    holds_external_id = and_(
        Task.deleted_at.is_(None), _is_any_of(columns["external_id"], external_ids)
    )
    return (
        select(*WRITTEN)
        .where(owned_by(actor), or_(_is_any_of(columns["id"], ids), holds_external_id))
        .order_by(Task.id)
        .with_for_update()
    )


def delete_tasks(actor: Actor, ids: Sequence[int]) -> ReturningDelete[Any]:
    statement = delete(Task).where(_is_any_of(columns["id"], ids), owned_by(actor))
    return statement.returning(Task.id).execution_options(synchronize_session=False)


def release_external_ids(actor: Actor, ids: Sequence[int]) -> ReturningUpdate[Any]:
    statement = update(Task).where(_is_any_of(columns["id"], ids), owned_by(actor))
    statement = statement.values(external_id=None).execution_options(synchronize_session=False)
    return statement.returning(Task.id)


def update_texts(actor: Actor, changed: Sequence[Change]) -> ReturningUpdate[Any]:
    """Bring the locked tasks from what they were to what they are."""
    return _update(actor, changed, UPDATED)


def update_others(actor: Actor, changed: Sequence[Change]) -> ReturningUpdate[Any]:
    """The same for tasks whose texts stay, which are not made searchable again then."""
    return _update(actor, changed, [one for one in UPDATED if one.name not in TEXTS])


def _update(
    actor: Actor, changed: Sequence[Change], written: Sequence[KeyedColumnElement[Any]]
) -> ReturningUpdate[Any]:
    given = _recordset([_difference(before, after) for before, after in changed])
    values = {
        # What is never null is sent only where it has changed: texts are long.
        one: given.c[one.name] if one.name in NULLABLE else func.coalesce(given.c[one.name], one)
        for one in written
    }
    statement = update(Task).where(Task.id == given.c.id, owned_by(actor)).values(values)
    return statement.returning(Task.id).execution_options(synchronize_session=False)


def _difference(before: Row, after: Row) -> dict[str, Any]:
    return {"id": after["id"]} | {
        one.name: after[one.name]
        for one in UPDATED
        if one.name in NULLABLE or after[one.name] is not before[one.name]
    }


def insert_tasks(actor: Actor, rows: Sequence[Row]) -> ReturningInsert[Any]:
    """Insert the tasks with the ids they have."""
    given = _recordset(rows)
    source = select(*(given.c[one.name] for one in WRITTEN)).where(credential_is_live(actor))
    return insert(Task).from_select(WRITTEN, source).returning(Task.id)


def _recordset(rows: Sequence[Row]) -> TableValuedAlias:
    """The rows as a table of one parameter."""
    documents = [{name: _as_json(value) for name, value in row.items()} for row in rows]
    table = func.jsonb_to_recordset(literal(documents, JSONB)).table_valued(
        *(column(one.name, one.type) for one in WRITTEN)
    )
    return table.render_derived(name="given", with_types=True)


def _as_json(value: Any) -> Any:  # noqa: ANN401 - what a column holds
    return value.isoformat() if isinstance(value, date) else value
