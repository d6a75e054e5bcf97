"""Tasks as the database keeps them."""

from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import BigInteger, CheckConstraint, Enum, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, PrimaryKey

TITLE_MAX_LENGTH = 200
DESCRIPTION_MAX_LENGTH = 20_000


class TaskStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    # From least to most urgent: PostgreSQL sorts an enum by the order of its labels.
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


EnumT = TypeVar("EnumT", bound=StrEnum)


def _native_enum(enum: type[EnumT], name: str) -> Enum:
    return Enum(enum, name=name, values_callable=lambda labels: [label.value for label in labels])


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[PrimaryKey]
    owner_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(TITLE_MAX_LENGTH))
    description: Mapped[str] = mapped_column(Text)
    status: Mapped[TaskStatus] = mapped_column(_native_enum(TaskStatus, "task_status"))
    priority: Mapped[TaskPriority] = mapped_column(_native_enum(TaskPriority, "task_priority"))
    completed_at: Mapped[datetime | None]
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
        # Newest first, for all of an owner's tasks and for those of one status or priority.
        Index("ix_tasks_owner_id_created_at", "owner_id", "created_at", "id"),
        Index("ix_tasks_owner_id_status_created_at", "owner_id", "status", "created_at", "id"),
        Index("ix_tasks_owner_id_priority_created_at", "owner_id", "priority", "created_at", "id"),
    )
