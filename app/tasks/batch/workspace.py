"""The tasks of a batch in memory, where its operations run in order.

Each rule of the single calls stands here once more, because a thousand operations are not a
thousand statements; a test runs the same operations both ways and compares.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import MISSING

from app.core.errors import APIError, InternalError
from app.tasks.batch.documents import as_stored, is_same, merge_patch, stored_size
from app.tasks.batch.schemas import CreateOperation, DeleteOperation, Operation, UpdateOperation
from app.tasks.errors import TaskNotFound, VersionConflict
from app.tasks.models import (
    METADATA_MAX_BYTES,
    METADATA_SIZE,
    ONE_DUE,
    UNIQUE_EXTERNAL_ID,
    TaskStatus,
    title_key,
)
from app.tasks.service import refusal_of

Row = Mapping[str, Any]
"""A task by the names of its columns; never changed in place."""
Change = tuple[Row, Row]
"""A task before and after."""


class Workspace:
    """The tasks that a batch names, locked, and the ids and the moment for what it does."""

    def __init__(
        self, owner_id: int, rows: Iterable[Row], *, new_ids: Iterable[int], now: datetime
    ) -> None:
        self._owner_id = owner_id
        self._new_ids = iter(new_ids)
        self._now = now
        self.before: dict[int, Row] = {row["id"]: row for row in rows}
        self.after = dict(self.before)
        # Which task outside the trash has an external_id.
        self._holders = {
            row["external_id"]: row["id"] for row in self.after.values() if _holds_external_id(row)
        }
        # Of each task the metadata that was measured last, and its size.
        self._sizes: dict[int, tuple[object, int]] = {}

    def run(self, operation: Operation) -> Row | None:
        """Do one operation; returns the task, or None for a delete.

        Raises `TaskNotFound`, `VersionConflict`, `ExternalIdTaken` and `ValidationFailed`, and has
        done nothing then.
        """
        match operation:
            case CreateOperation():
                return self._create(operation)
            case UpdateOperation():
                return self._update(operation)
            case DeleteOperation():
                self._delete(operation)
                return None

    def _create(self, operation: CreateOperation) -> Row:
        given = operation.task.model_dump()
        completed = given["status"] is TaskStatus.COMPLETED
        row = given | {
            "id": next(self._new_ids),
            "owner_id": self._owner_id,
            "title_key": title_key(given["title"]),
            "metadata": as_stored(given["metadata"]),
            "completed_at": self._now if completed else None,
            "deleted_at": None,
            "version": 1,
            "created_at": self._now,
            "updated_at": self._now,
        }
        self._put(row, given)
        return row

    def _update(self, operation: UpdateOperation) -> Row:
        before = self._find(operation)
        changes = operation.changes.model_dump()
        if "metadata" in changes:
            changes["metadata"] = merge_patch(before["metadata"], changes["metadata"])
        if all(is_same(before[name], changes[name]) for name in changes):
            return before
        moment = self._moment_of_change(before)
        row = {**before, **changes, "version": before["version"] + 1, "updated_at": moment}
        if "title" in changes:
            row["title_key"] = title_key(row["title"])
        if "status" in changes:
            completed = row["status"] is TaskStatus.COMPLETED
            row["completed_at"] = (before["completed_at"] or moment) if completed else None
        self._put(row, changes)
        return row

    def _delete(self, operation: DeleteOperation) -> None:
        before = self._find(operation, in_trash_too=operation.permanent)
        self._release_external_id(before)
        if operation.permanent:
            del self.after[operation.id]
            return
        moment = self._moment_of_change(before)
        gone = {"deleted_at": moment, "updated_at": moment, "version": before["version"] + 1}
        self.after[operation.id] = {**before, **gone}

    def _find(
        self, operation: UpdateOperation | DeleteOperation, *, in_trash_too: bool = False
    ) -> Row:
        row = self.after.get(operation.id)
        if row is None or (row["deleted_at"] is not None and not in_trash_too):
            raise TaskNotFound
        if operation.version is not MISSING and operation.version != row["version"]:
            raise VersionConflict
        return row

    def _moment_of_change(self, before: Row) -> datetime:
        # A task's updated_at rises with every version, also within a batch.
        later: datetime = before["updated_at"] + timedelta(microseconds=1)
        return max(self._now, later)

    def _put(self, row: Row, given: Mapping[str, Any]) -> None:
        """Keep the row, or raise what the constraints have against the `given` fields, in order."""
        external_id = row["external_id"]
        if row["due_at"] is not None and row["due_on"] is not None:
            raise _refusal(ONE_DUE, given)
        if self._size_of(row) > METADATA_MAX_BYTES:
            raise _refusal(METADATA_SIZE, given)
        if external_id is not None and self._holders.get(external_id, row["id"]) != row["id"]:
            raise _refusal(UNIQUE_EXTERNAL_ID, given)
        if (before := self.after.get(row["id"])) is not None:
            self._release_external_id(before)
        if external_id is not None:
            self._holders[external_id] = row["id"]
        self.after[row["id"]] = row

    def characters_of(self, row: Row) -> int:
        """How much text a task holds where there may be much of it."""
        return len(row["description"]) + self._size_of(row)

    def _size_of(self, row: Row) -> int:
        metadata = row["metadata"]
        measured, size = self._sizes.get(row["id"], (None, 0))
        if measured is not metadata:
            size = stored_size(metadata)
            self._sizes[row["id"]] = metadata, size
        return size

    def _release_external_id(self, row: Row) -> None:
        if _holds_external_id(row):
            del self._holders[row["external_id"]]

    @property
    def created(self) -> list[Row]:
        """What is to be inserted."""
        return [row for row in self.after.values() if row["id"] not in self.before]

    @property
    def changed(self) -> list[Change]:
        """What is to be updated."""
        return [
            (before, self.after[before["id"]])
            for before in self.before.values()
            if self.after.get(before["id"], before) is not before
        ]

    @property
    def removed(self) -> list[int]:
        """The ids of what is to be deleted."""
        return [task_id for task_id in self.before if task_id not in self.after]

    @property
    def handed_over(self) -> list[int]:
        """The ids of the changed tasks whose external_id another changed task takes over.

        They have to let go of it first: a unique index is checked row by row, and one statement may
        come to the taker before it comes to them.
        """
        takers = {
            after["external_id"]: after["id"]
            for _, after in self.changed
            if _holds_external_id(after)
        }
        return [
            before["id"]
            for before, _ in self.changed
            if _holds_external_id(before)
            and takers.get(before["external_id"], before["id"]) != before["id"]
        ]


def _holds_external_id(row: Row) -> bool:
    return row["external_id"] is not None and row["deleted_at"] is None


def _refusal(constraint: str, given: Mapping[str, Any]) -> APIError:
    return refusal_of(constraint, given) or InternalError()
