"""The floor: what this Python, these parsers and this database allow, with nothing in between.

Starlette and asyncpg, written by hand for the calls that are timed, and for nothing else: what is
sent is believed. The statements are taskflow's own, to the letter. Whom a token belongs to is
remembered for good.
"""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.floor.statements import ACTOR, CREATE, LIST, LIST_UNCOUNTED, PATCH, READ

SECRET_KEY = os.environ["SECRET_KEY"].encode()
PATH = "/api/v1/tasks"
# Of each of two processes, as taskflow has it.
POOL_SIZE = 10

_actors: dict[str, tuple[int, int]] = {}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    settings = {"application_name": "floor", "timezone": "UTC"}
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"],
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        server_settings=settings,
        init=_read_json,
        # Settings are never changed, so there is nothing to take back.
        reset=_no_reset,
    ) as pool:
        app.state.pool = pool
        yield


async def _no_reset(_connection: Any) -> None:
    pass


async def _read_json(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec(
        "jsonb", encoder=_encode, decoder=json.loads, schema="pg_catalog"
    )


async def _actor(request: Request) -> tuple[int, int]:
    token = request.headers["authorization"].removeprefix("Bearer ")
    actor = _actors.get(token)
    if actor is None:
        key = hmac.digest(SECRET_KEY, b"taskflow credential digest", hashlib.sha256)
        digest = hmac.digest(key, token.encode(), hashlib.sha256)
        row = await request.app.state.pool.fetchrow(ACTOR, digest)
        actor = _actors[token] = (row[0], row[1])
    return actor


def _instant(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "title": row["title"],
        "description": row["description"],
        "status": row["status"],
        "priority": row["priority"],
        "owner_id": row["owner_id"],
        "tags": row["tags"],
        "due_at": _instant(row["due_at"]),
        "due_on": row["due_on"] and row["due_on"].isoformat(),
        "completed_at": _instant(row["completed_at"]),
        "external_id": row["external_id"],
        "metadata": row["metadata"],
        "version": row["version"],
        "created_at": _instant(row["created_at"]),
        "updated_at": _instant(row["updated_at"]),
    }


def _answer(
    data: Any, message: str = "ok", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    body = _encode({"status": "success", "message": message, "data": data})
    return Response(body, status, headers, "application/json")


def _task(row: Any, message: str = "ok", status: int = 200) -> Response:
    headers = {"ETag": f'"{row["id"]}-{row["version"]}"'}
    if status == 201:
        headers["Location"] = f"{PATH}/{row['id']}"
    return _answer(_shown(row), message, status, headers)


async def health(_request: Request) -> Response:
    return _answer({"status": "healthy"})


async def list_tasks(request: Request) -> Response:
    user_id, credential_id = await _actor(request)
    counted = request.query_params.get("count") != "false"
    statement = LIST if counted else LIST_UNCOUNTED
    rows = await request.app.state.pool.fetch(statement, user_id, credential_id)
    total = rows[0][-1] if counted else None
    pages = -(-total // 20) if total is not None else None
    cursor = None
    links = [(1, "first")]
    if len(rows) > 20:
        last = rows[19]
        content = _encode([user_id, last["created_at"].isoformat(), last["id"]]).encode()
        signature = hmac.digest(SECRET_KEY, content, hashlib.sha256)[:16]
        cursor = base64.urlsafe_b64encode(content + signature).decode().rstrip("=")
        links.append((2, "next"))
    if pages:
        links.append((pages, "last"))
    kept = "" if counted else "count=false&"
    link = ", ".join(f'<{PATH}?{kept}page={page}>; rel="{name}"' for page, name in links)
    return _answer(
        {
            "tasks": [_shown(row) for row in rows[:20]],
            "total": total,
            "page": 1,
            "pages": pages,
            "next_cursor": cursor,
        },
        headers={"Link": link},
    )


async def read_task(request: Request) -> Response:
    user_id, credential_id = await _actor(request)
    task_id = int(request.path_params["task_id"])
    return _task(await request.app.state.pool.fetchrow(READ, task_id, user_id, credential_id))


async def create_task(request: Request) -> Response:
    user_id, credential_id = await _actor(request)
    sent = json.loads(await request.body())
    row = await request.app.state.pool.fetchrow(
        CREATE,
        sent["title"],
        sent.get("description", ""),
        sent.get("status", "pending"),
        sent.get("priority", "medium"),
        sent.get("tags", []),
        sent.get("due_at"),
        sent.get("due_on"),
        sent.get("metadata", {}),
        sent.get("external_id"),
        sent["title"].lower(),
        user_id,
        "completed",
        credential_id,
    )
    return _task(row, "Task created", 201)


async def update_task(request: Request) -> Response:
    user_id, credential_id = await _actor(request)
    sent = json.loads(await request.body())
    row = await request.app.state.pool.fetchrow(
        PATCH,
        sent["status"],
        sent["metadata"],
        "completed",
        timedelta(microseconds=1),
        1,
        int(request.path_params["task_id"]),
        user_id,
        credential_id,
        None,
    )
    return _task(row, "Task updated")


app = Starlette(
    routes=[
        Route("/health", health),
        Route(PATH, list_tasks, methods=["GET"]),
        Route(PATH, create_task, methods=["POST"]),
        Route(PATH + "/{task_id}", read_task, methods=["GET"]),
        Route(PATH + "/{task_id}", update_task, methods=["PATCH"]),
    ],
    lifespan=lifespan,
)
