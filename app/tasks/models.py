"""Tasks as the database keeps them."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    TextClause,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, PrimaryKey
from app.db.types import WholeDate, WholeInstant

TITLE_MAX_LENGTH = 200
DESCRIPTION_MAX_LENGTH = 20_000
TAG_MAX_LENGTH = 50
MAXIMUM_TAGS = 20
EXTERNAL_ID_MAX_LENGTH = 200
METADATA_MAX_BYTES = 16 * 1024
METADATA_MAX_LEVELS = 32
IDEMPOTENCY_KEY_MAX_LENGTH = 255

UNIQUE_EXTERNAL_ID = "uq_tasks_owner_id_external_id"
METADATA_SIZE = "ck_tasks_metadata_size"
METADATA_DEPTH = "ck_tasks_metadata_depth"
ONE_DUE = "ck_tasks_due_at_or_due_on"


class TaskStatus(StrEnum):
    """How far a task is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    """How urgent a task is."""

    # From least to most urgent: PostgreSQL sorts an enum by the order of its labels.
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


EnumT = TypeVar("EnumT", bound=StrEnum)


def _native_enum(enum: type[EnumT], name: str) -> Enum:
    return Enum(enum, name=name, values_callable=lambda labels: [label.value for label in labels])


def title_key(title: str) -> str:
    """What titles are sorted by. The database's own lower() depends on its locale."""
    return title.lower()


# Both in PostgreSQL's own spelling, with which Alembic compares them.
SEARCH = "search_vector((title)::text, description, tags)"
# An all-day task is due at the end of its day in UTC.
DUE = (
    "COALESCE(due_at, (((due_on + 1)::timestamp without time zone"
    " - '00:00:00.000001'::interval) AT TIME ZONE 'UTC'::text))"
)


# For columns that only the database looks at.
_NEVER_READ: dict[str, Any] = {"deferred": True, "deferred_raiseload": True}
# No due date sorts last both ways.
DUE_ASCENDING = "COALESCE(due, 'infinity'::timestamp with time zone)"
DUE_DESCENDING = "COALESCE(due, '-infinity'::timestamp with time zone)"


def _index_of_live(name: str, *columns: str | TextClause, unique: bool = False) -> Index:
    """An index of what an owner has outside the trash, in the order of the columns."""
    live = text("deleted_at IS NULL")
    return Index(name, "owner_id", *columns, unique=unique, postgresql_where=live)


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[PrimaryKey]
    # Indexed for the end of an account, which no partial index serves.
    owner_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    title: Mapped[str] = mapped_column(String(TITLE_MAX_LENGTH))
    # `title_key(title)`, in code-point order.
    title_key: Mapped[str] = mapped_column(Text(collation="C"), **_NEVER_READ)
    description: Mapped[str] = mapped_column(Text)
    status: Mapped[TaskStatus] = mapped_column(_native_enum(TaskStatus, "task_status"))
    priority: Mapped[TaskPriority] = mapped_column(_native_enum(TaskPriority, "task_priority"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(String(TAG_MAX_LENGTH)), server_default="{}")
    due_at: Mapped[datetime | None] = mapped_column(WholeInstant)
    due_on: Mapped[date | None] = mapped_column(WholeDate)
    due: Mapped[datetime | None] = mapped_column(
        WholeInstant, Computed(DUE, persisted=True), **_NEVER_READ
    )
    external_id: Mapped[str | None] = mapped_column(String(EXTERNAL_ID_MAX_LENGTH))
    # SQLAlchemy keeps the plain name for itself.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default="{}")
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True), **_NEVER_READ)
    completed_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("title <> ''", name="title_not_blank"),
        CheckConstraint(
            f"char_length(description) <= {DESCRIPTION_MAX_LENGTH}", name="description_length"
        ),
        CheckConstraint(
            "(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at_if_completed"
        ),
        CheckConstraint("version >= 1", name="version_from_one"),
        # Filters rely on it.
        CheckConstraint("updated_at >= created_at", name="updated_at_from_created_at"),
        CheckConstraint(f"cardinality(tags) <= {MAXIMUM_TAGS}", name="tags_number"),
        CheckConstraint(
            "array_position(tags, '') IS NULL AND array_position(tags, NULL) IS NULL",
            name="tags_not_blank",
        ),
        CheckConstraint("num_nonnulls(due_at, due_on) <= 1", name="due_at_or_due_on"),
        CheckConstraint("external_id <> ''", name="external_id_not_empty"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_object"),
        # Only what is near the limit is measured to the byte. At most every third character is a
        # space that a compact writer leaves out.
        CheckConstraint(
            f"octet_length(metadata::text) <= {METADATA_MAX_BYTES}"
            f" OR octet_length(metadata::text) <= {METADATA_MAX_BYTES * 3 // 2}"
            f" AND compact_size(metadata) <= {METADATA_MAX_BYTES}",
            name="metadata_size",
        ),
        CheckConstraint(
            "NOT jsonb_path_exists(metadata, 'strict $.**{" + str(METADATA_MAX_LEVELS) + "}"
            ' ? (@.type() == "object" || @.type() == "array")\')',
            name="metadata_depth",
        ),
        # What is in the trash holds no external_id: it is free for another.
        _index_of_live(UNIQUE_EXTERNAL_ID, "external_id", unique=True),
        # The sorts, and the newest of one status.
        _index_of_live("ix_tasks_owner_id_created_at", "created_at", "id"),
        _index_of_live("ix_tasks_owner_id_updated_at", "updated_at", "id"),
        _index_of_live("ix_tasks_owner_id_due_ascending", text(DUE_ASCENDING), "id"),
        _index_of_live("ix_tasks_owner_id_due_descending", text(DUE_DESCENDING), "id"),
        _index_of_live("ix_tasks_owner_id_priority", "priority", "id"),
        _index_of_live("ix_tasks_owner_id_title_key", "title_key", "id"),
        _index_of_live("ix_tasks_owner_id_status_created_at", "status", "created_at", "id"),
        Index(
            "ix_tasks_owner_id_search_tags",
            "owner_id",
            "search",
            "tags",
            postgresql_using="gin",
            postgresql_where=text("deleted_at IS NULL"),
        ),
        # The trash, for its owner and for whoever empties it.
        Index(
            "ix_tasks_owner_id_deleted_at",
            "owner_id",
            "deleted_at",
            "id",
            postgresql_where=text("deleted_at IS NOT NULL"),
        ),
        Index("ix_tasks_deleted_at", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        # A changed task stays on its page while that has room.
        {"postgresql_with": {"fillfactor": 85}},
    )


class IdempotencyKey(Base):
    """A key that a client gave to a write, and the answer that a repeat of it gets."""

    __tablename__ = "idempotency_keys"

    owner_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(IDEMPOTENCY_KEY_MAX_LENGTH), primary_key=True)
    # SHA-256 of the method, the path and the body.
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt] = mapped_column(index=True)
