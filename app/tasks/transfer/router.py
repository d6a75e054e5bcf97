"""Tasks as a file, over HTTP."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from app.accounts.credentials import CurrentUser, requires
from app.core.bounds import NO_NUL
from app.core.routing import API, StrictRoute
from app.db.session import get_database
from app.tasks.filters import TaskFilters, given
from app.tasks.models import Task
from app.tasks.queries import matching
from app.tasks.transfer.exporting import in_format, walk
from app.tasks.transfer.formats import FORMATS, ExportFormat

router = APIRouter(prefix=f"{API}/tasks", tags=["tasks"], route_class=StrictRoute)


class TaskExport(TaskFilters):
    """The filters of the list, and the form of the file."""

    format: ExportFormat = Field(
        default=ExportFormat.JSON, description="The file's format.", examples=["csv"]
    )


# There is no bound; this is the largest that every generator can write down.
LARGEST_FILE = 2**31 - 1
FILE_SCHEMA = {"type": "string", "maxLength": LARGEST_FILE, "pattern": NO_NUL}
_FILES: dict[str, Any] = {
    "description": "The file. One that is cut short was broken off.",
    "headers": {
        "Content-Disposition": {
            "description": "Tells browsers to save the file, and its name.",
            "schema": {
                "type": "string",
                "maxLength": 100,
                "pattern": "^attachment; ",
                "examples": ['attachment; filename="tasks.csv"'],
            },
        }
    },
    "content": {
        "application/json": {
            "schema": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/TaskRead"},
                "maxItems": LARGEST_FILE,
            }
        },
        "text/csv": {"schema": FILE_SCHEMA},
        "text/calendar": {"schema": FILE_SCHEMA},
    },
}


@router.get(
    "/export",
    summary="Export tasks",
    dependencies=[requires("tasks:read")],
    response_class=StreamingResponse,
    responses={200: _FILES},
)
async def export_tasks(
    query: Annotated[TaskExport, Query()], actor: CurrentUser, request: Request
) -> StreamingResponse:
    """The caller's tasks that pass all filters, oldest first, as a file of any length.

    - `json`: an array of tasks as the other calls show them, each on a line of its own.
    - `csv`: RFC 4180 with a header row, in UTF-8 with a byte order mark, for spreadsheets. `tags`
      and `metadata` are JSON in their cells. An apostrophe stands before a cell that a spreadsheet
      would run as a formula; `taskflow tasks import` takes it away again.
    - `ics`: a calendar of to-dos (RFC 5545), for calendar programs.

    A task that is there throughout is in the file once. When the export cannot go on, because the
    credential is revoked for instance, the connection breaks; the file then lacks the `]`, the last
    line break or the `END:VCALENDAR` with which it would end.
    """
    form = FORMATS[query.format]
    batches = walk(get_database(request), matching(actor, given(query)), actor)
    # What goes wrong before the first byte is answered in words.
    first = await anext(batches)

    async def all_batches() -> AsyncGenerator[Sequence[Task]]:
        yield first
        async for tasks in batches:
            yield tasks

    return StreamingResponse(
        in_format(form, all_batches()),
        media_type=form.media_type,
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )
