"""Every statement on tasks. Each is guarded: no row is seen or written for an ended credential."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    String,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import Insert as InsertOrUpdate
from sqlalchemy.dialects.postgresql import insert as insert_or_update

from app.accounts.credentials import ANY_ACTOR, Actor, credential_is_live
from app.core.conditions import EntityTags
from app.db.statements import Statement
from app.tasks.filters import Given, is_overdue, passes, with_parameters
from app.tasks.models import Task, TaskStatus, title_key
from app.tasks.ordering import NEWEST_DELETION_FIRST, Ordering, Sort, ordering_of
from app.tasks.schemas import TaskCreate, TaskRead, TrashedTaskRead

columns = Task.__table__.c
READ = [columns[name] for name in TaskRead.model_fields]
READ_IN_TRASH = [columns[name] for name in TrashedTaskRead.model_fields]
TASK_ID = bindparam("task_id", type_=Task.id.type)
TASK_IDS = func.pg_get_serial_sequence(Task.__tablename__, Task.id.name)
"""The name of the sequence that ids come from."""
Condition = Literal["any", "tags"] | None
"""Whether an `If-Match` or `If-None-Match` is `*` or a list of entity tags; None without it."""
VERSIONS = bindparam("versions", type_=ARRAY(Integer))


def owned_by(actor: Actor) -> ColumnElement[bool]:
    """All tasks of the actor, those in the trash too, while the actor's credential is live."""
    return and_(Task.owner_id == actor.user_id, credential_is_live(actor))


def visible_to(actor: Actor) -> ColumnElement[bool]:
    """The tasks that the actor may see and change: what is in the trash is not there."""
    return and_(owned_by(actor), Task.deleted_at.is_(None))


def values_of(data: TaskCreate) -> dict[str, Any]:
    """A new task's values by the names of its columns, but for its owner and `completed_at`."""
    return {**{name: getattr(data, name) for name in GIVEN}, "title_key": title_key(data.title)}


GIVEN = tuple(TaskCreate.model_fields)
PARAMETERS = {name: bindparam(name, type_=columns[name].type) for name in (*GIVEN, "title_key")}
"""What stands for the values of `values_of`."""


def insert_task() -> InsertOrUpdate:
    """Insert a task if the actor's credential is live; returns the row or none."""
    new: dict[str, ColumnElement[Any]] = dict(PARAMETERS)
    new["owner_id"] = type_coerce(ANY_ACTOR.user_id, Task.owner_id.type)
    new["completed_at"] = case((new["status"] == TaskStatus.COMPLETED, func.now()))
    source = select(*new.values()).where(credential_is_live(ANY_ACTOR))
    return insert_or_update(Task).from_select([columns[name] for name in new], source)


CREATE_TASK = Statement(insert_task().returning(*READ))
READ_TASK = Statement(select(*READ).where(Task.id == TASK_ID, visible_to(ANY_ACTOR)))


def moment_of_change() -> ColumnElement[datetime]:
    # now() is when the statement began, which may be before another write that it waited for.
    return func.greatest(func.now(), Task.updated_at + timedelta(microseconds=1))


Values = dict[Any, Any]


def _with_consequences(values: Mapping[Any, ColumnElement[Any]]) -> Values:
    """New values of a row, with the version, `updated_at` and `completed_at` that follow.

    A write that changes nothing keeps all three.
    """
    changed = or_(*(column.is_distinct_from(value) for column, value in values.items()))
    moment = moment_of_change()
    consequences: Values = {
        Task.version: case((changed, Task.version + 1), else_=Task.version),
        Task.updated_at: case((changed, moment), else_=Task.updated_at),
    }
    status = values.get(columns["status"])
    if status is not None:
        consequences[Task.completed_at] = case(
            (status == TaskStatus.COMPLETED, func.coalesce(Task.completed_at, moment))
        )
    metadata = columns["metadata"]
    if metadata in values:
        # Equal numbers can be written in two ways, 1 and 1.0, and a version is always the same.
        consequences[metadata] = case((changed, values[metadata]), else_=metadata)
    return {**values, **consequences}


def changed_values(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a merge patch says of columns, by their names."""
    if "title" in changes:
        return {**changes, "title_key": title_key(changes["title"])}
    return dict(changes)


def _merged(values: Mapping[str, ColumnElement[Any]]) -> Values:
    """What the columns of a merge patch become, computed on the row as it is when it is locked."""
    merged: Values = {columns[name]: value for name, value in values.items()}
    if "metadata" in values:
        merged[columns["metadata"]] = func.merge_patch(columns["metadata"], values["metadata"])
    return merged


# Evaluated on the row as it is once its lock is won. Without versions any will do.
_IN_VERSION = or_(VERSIONS.is_(None), Task.version == any_(VERSIONS))


@lru_cache(maxsize=512)
def update_task(changed: frozenset[str]) -> Statement:
    """Apply a merge patch of these columns in one statement, on the row as it is then.

    That is why two patches of different fields both stand. A patch that changes nothing keeps the
    version and `updated_at`.
    """
    # Metadata last: while another column tells that something changes, they are merged but once.
    in_order = sorted(changed, key=lambda name: (name == "metadata", name))
    values = _merged({name: PARAMETERS[name] for name in in_order})
    return Statement(
        update(Task)
        .where(Task.id == TASK_ID, visible_to(ANY_ACTOR), _IN_VERSION)
        .values(_with_consequences(values))
        .returning(*READ)
    )


_MOMENT = moment_of_change()
_TRASHED = Task.deleted_at.is_not(None)
TRASH_TASK = Statement(
    update(Task)
    .where(Task.id == TASK_ID, visible_to(ANY_ACTOR), _IN_VERSION)
    .values(deleted_at=_MOMENT, updated_at=_MOMENT, version=Task.version + 1)
    .returning(Task.id)
)
# One that is not in the trash stays as it is.
RESTORE_TASK = Statement(
    update(Task)
    .where(Task.id == TASK_ID, owned_by(ANY_ACTOR), _IN_VERSION)
    .values(
        deleted_at=null(),
        updated_at=case((_TRASHED, _MOMENT), else_=Task.updated_at),
        version=case((_TRASHED, Task.version + 1), else_=Task.version),
    )
    .returning(*READ)
)
# For good, from the trash too.
DELETE_TASK = Statement(
    delete(Task).where(Task.id == TASK_ID, owned_by(ANY_ACTOR), _IN_VERSION).returning(Task.id)
)
TASK_EXISTS = Statement(
    select(exists().where(Task.id == TASK_ID, visible_to(ANY_ACTOR)).label("is_there"))
)
TASK_EXISTS_IN_TRASH_TOO = Statement(
    select(exists().where(Task.id == TASK_ID, owned_by(ANY_ACTOR)).label("is_there"))
)


def _tag() -> ColumnElement[str]:
    return cast(Task.id, String) + "-" + cast(Task.version, String)


WANTED_TAGS = bindparam("wanted_tags", type_=ARRAY(String))
UNWANTED_TAGS = bindparam("unwanted_tags", type_=ARRAY(String))


def values_of_conditions(
    if_match: EntityTags | None, if_none_match: EntityTags | None
) -> dict[str, list[str]]:
    """The entity tags of a request's conditions, by the names of the parameters."""
    return {
        "wanted_tags": sorted(if_match.strong) if if_match else [],
        "unwanted_tags": sorted(if_none_match.strong | if_none_match.weak) if if_none_match else [],
    }


@lru_cache
def put_task(*, if_match: Condition, if_none_match: Condition) -> Statement:
    """Create the task with this `external_id`, or make it what the values say, in one statement.

    Takes `values_of` the task and `values_of_conditions`. Returns the task and whether it was
    created. No row: the conditions do not hold, or the credential has ended.
    """
    holds: ColumnElement[bool] = true()
    if if_match == "tags":
        holds = _tag() == any_(WANTED_TAGS)
    if if_none_match == "any":
        holds = false()
    elif if_none_match == "tags":
        holds = and_(holds, _tag() != all_(UNWANTED_TAGS))
    new = _with_consequences({columns[name]: value for name, value in PARAMETERS.items()})
    if if_match is not None:
        of_this_name = Task.external_id == PARAMETERS["external_id"]
        changed = update(Task).where(visible_to(ANY_ACTOR), of_this_name, holds).values(new)
        is_new: ColumnElement[bool] = literal_column("false", Boolean)
        return Statement(changed.returning(*READ, is_new.label("is_new")))
    upsert = insert_task().on_conflict_do_update(
        index_elements=[Task.owner_id, Task.external_id],
        index_where=Task.deleted_at.is_(None),
        set_=new,
        where=holds,
    )
    # The statement has allotted an id, which a task that was there does not have. (Its `xmax` would
    # tell too, but partitioned tables have no system columns.)
    is_new = Task.id == func.currval(TASK_IDS)
    return Statement(upsert.returning(*READ, is_new.label("is_new")))


def matching(
    actor: Actor, filters: Sequence[Given], due_key: ColumnElement[Any] | None = None
) -> ColumnElement[bool]:
    """The actor's tasks outside the trash that pass the filters."""
    owner_id = type_coerce(actor.user_id, Task.owner_id.type)
    return and_(visible_to(actor), passes(filters, owner_id, due_key))


def _in_trash(actor: Actor) -> ColumnElement[bool]:
    return and_(owned_by(actor), Task.deleted_at.is_not(None))


def count_of(among: ColumnElement[bool]) -> Select[int]:
    return select(func.count().label("total")).select_from(Task).where(among)


class Listed(NamedTuple):
    """What is listed: the tasks that pass `filters`, or with None what is in the trash."""

    filters: tuple[Given, ...] | None

    def among(self, due_key: ColumnElement[Any] | None = None) -> ColumnElement[bool]:
        """Whether a task is listed; `due_key` is what the list is sorted by if by due dates."""
        if self.filters is None:
            return _in_trash(ANY_ACTOR)
        return matching(ANY_ACTOR, with_parameters(self.filters), due_key)


class Page(NamedTuple):
    """What the statement of a page depends on; requests that differ in values alone share it.

    The page begins behind as many tasks as the parameter `offset` says or, with `after`, behind the
    position of a cursor. `infinity` is the position's key if it is an infinite instant, which is no
    parameter.
    """

    listed: Listed
    sort: Sort | None
    per_page: int
    counted: bool
    offset: bool = False
    after: bool = False
    infinity: str | None = None

    @property
    def ordering(self) -> Ordering:
        return NEWEST_DELETION_FIRST if self.sort is None else ordering_of(self.sort)


@lru_cache(maxsize=512)
def select_page(page: Page) -> Statement:
    """The tasks of a page, each with the total if `counted`, and one more to tell if any follow.

    Takes the values of the filters, `offset`, and `after_key` and `after_id` of a position. How
    many are read stands in the statement: without filters PostgreSQL then plans it once, not for
    each request. With filters the plan depends on how frequent their values are: to collect all
    tasks that hold a word and sort them is best for a rare one, and takes seconds for "the".
    """
    ordering = page.ordering
    by_due = page.sort in {"due", "-due"}
    among = page.listed.among(type_coerce(ordering.key, ordering.type) if by_due else None)
    chosen = READ_IN_TRASH if page.listed.filters is None else READ
    # In one statement, so that the total and the page are of the same moment.
    total = count_of(page.listed.among()).scalar_subquery() if page.counted else null()
    statement = (
        select(*chosen, total.label("total"))
        .where(among)
        .order_by(*ordering.order_by())
        .limit(literal_column(str(page.per_page + 1)))
    )
    if page.offset:
        statement = statement.offset(bindparam("offset", type_=BigInteger()))
    if page.after:
        position: ColumnElement[Any] = bindparam("after_key", type_=ordering.type)
        if page.infinity is not None:
            position = ordering.literal(page.infinity)
        task_id = bindparam("after_id", type_=Task.id.type)
        statement = statement.where(ordering.is_after(position, task_id))
    return Statement(statement, planned_anew=bool(page.listed.filters))


@lru_cache(maxsize=128)
def count_listed(listed: Listed) -> Statement:
    return Statement(count_of(listed.among()), planned_anew=bool(listed.filters))


NOW = ("stats_now", "stats_day")


@lru_cache(maxsize=128)
def count_by_status_and_priority(filters: tuple[Given, ...]) -> Statement:
    """How many tasks of each status and priority pass the filters, and how many are overdue.

    Takes the values of the filters, and by the names of `NOW` the present and its day.
    """
    overdue = is_overdue([bindparam(name) for name in NOW])
    return Statement(
        select(
            Task.status,
            Task.priority,
            func.count().label("count"),
            func.count().filter(overdue).label("overdue"),
        )
        .where(matching(ANY_ACTOR, with_parameters(filters)))
        .group_by(Task.status, Task.priority),
        planned_anew=bool(filters),
    )
