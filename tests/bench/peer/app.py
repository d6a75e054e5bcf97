"""The conventional peer: the same service as a competent team writes it with Flask.

Flask, Flask-SQLAlchemy, marshmallow and psycopg2 behind gunicorn's synchronous workers: ORM models,
a schema for each direction, the login looked up for each request, a total with each page. It works
on taskflow's own tables and gives the same answers to the calls that are timed. It does not have
what taskflow has beyond them: search, conditions, idempotency, limits, metrics, request ids.
"""

import base64
import functools
import hashlib
import hmac
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, g, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate
from sqlalchemy import ARRAY, BigInteger, Enum, ForeignKey, LargeBinary, String, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

STATUSES = ("pending", "in_progress", "completed", "cancelled")
PRIORITIES = ("low", "medium", "high", "critical")


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class User(db.Model):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    username: Mapped[str]
    is_active: Mapped[bool]


class Credential(db.Model):
    __tablename__ = "credentials"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String))
    expires_at: Mapped[datetime | None] = mapped_column(db.DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(db.DateTime(timezone=True))

    user: Mapped[User] = relationship(lazy="joined", innerjoin=True)


class Task(db.Model):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str] = mapped_column(String(200))
    title_key: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Enum(*STATUSES, name="task_status"))
    priority: Mapped[str] = mapped_column(Enum(*PRIORITIES, name="task_priority"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(String))
    due_at: Mapped[datetime | None] = mapped_column(db.DateTime(timezone=True))
    due_on: Mapped[Any] = mapped_column(db.Date)
    external_id: Mapped[str | None] = mapped_column(String(200))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    completed_at: Mapped[datetime | None] = mapped_column(db.DateTime(timezone=True))
    deleted_at: Mapped[datetime | None] = mapped_column(db.DateTime(timezone=True))
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(
        db.DateTime(timezone=True), server_default=func.now()
    )
    updated_at: Mapped[datetime] = mapped_column(
        db.DateTime(timezone=True), server_default=func.now()
    )

    @property
    def position(self) -> list[Any]:
        return [self.created_at.isoformat(), self.id]


class Instant(fields.DateTime):
    """An instant as taskflow writes it: in UTC, with microseconds and `Z`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        if value is None:
            return None
        utc: str = value.astimezone(UTC).isoformat(timespec="microseconds")
        return utc.replace("+00:00", "Z")


class TaskSchema(Schema):
    """A task as it is answered."""

    class Meta:
        unknown = EXCLUDE

    id = fields.Integer()
    title = fields.String()
    description = fields.String()
    status = fields.String()
    priority = fields.String()
    owner_id = fields.Integer()
    tags = fields.List(fields.String())
    due_at = Instant()
    due_on = fields.Date()
    completed_at = Instant()
    external_id = fields.String()
    metadata = fields.Dict(attribute="metadata_")
    version = fields.Integer()
    created_at = Instant()
    updated_at = Instant()


class TaskInput(Schema):
    """A task as it is sent."""

    class Meta:
        unknown = RAISE

    title = fields.String(required=True, validate=validate.Length(min=1, max=200))
    description = fields.String(load_default="", validate=validate.Length(max=20_000))
    status = fields.String(load_default="pending", validate=validate.OneOf(STATUSES))
    priority = fields.String(load_default="medium", validate=validate.OneOf(PRIORITIES))
    tags = fields.List(
        fields.String(validate=validate.Length(min=1, max=50)),
        load_default=list,
        validate=validate.Length(max=20),
    )
    due_at = fields.AwareDateTime(load_default=None, allow_none=True)
    due_on = fields.Date(load_default=None, allow_none=True)
    external_id = fields.String(
        load_default=None, allow_none=True, validate=validate.Length(min=1, max=200)
    )
    metadata = fields.Dict(load_default=dict, attribute="metadata_")


class ListQuery(Schema):
    """Which page of the list."""

    page = fields.Integer(load_default=1, validate=validate.Range(min=1))
    per_page = fields.Integer(load_default=20, validate=validate.Range(min=1, max=100))
    count = fields.Boolean(load_default=True)


task_schema = TaskSchema()
tasks_schema = TaskSchema(many=True)
task_input = TaskInput()
list_query = ListQuery()

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace(
    "postgresql://", "postgresql+psycopg2://"
)
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"application_name": "peer"}}
db.init_app(app)
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
SECRET_KEY = os.environ["SECRET_KEY"]


def error(status: int, code: str, message: str) -> tuple[Response, int]:
    return jsonify({"status": "error", "code": code, "message": message}), status


@app.errorhandler(ValidationError)
def invalid(_fault: ValidationError) -> tuple[Response, int]:
    return error(400, "validation_failed", "The request is not valid")


@app.after_request
def log_request(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    app.logger.info("%s %s %s", request.method, request.path, response.status_code)
    return response


def digest_of(token: str) -> bytes:
    key = hmac.digest(SECRET_KEY.encode(), b"taskflow credential digest", hashlib.sha256)
    return hmac.digest(key, token.encode(), hashlib.sha256)


def login_required(scope: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            credential = None
            if scheme.lower() == "bearer" and token:
                credential = db.session.scalar(
                    select(Credential).where(Credential.digest == digest_of(token))
                )
            now = datetime.now(UTC)
            if (
                credential is None
                or credential.revoked_at is not None
                or (credential.expires_at is not None and credential.expires_at <= now)
                or not credential.user.is_active
            ):
                return error(401, "unauthenticated", "Log in first")
            if scope not in credential.scopes:
                return error(403, "insufficient_scope", f"This needs the scope {scope}")
            g.user = credential.user
            return view(*args, **kwargs)

        return checked

    return decorate


def carry(task: Task, message: str = "ok") -> Response:
    response = jsonify({"status": "success", "message": message, "data": task_schema.dump(task)})
    response.headers["ETag"] = f'"{task.id}-{task.version}"'
    return response


def cursor_at(task: Task) -> str:
    content = json.dumps([g.user.id, task.position]).encode()
    signature = hmac.digest(SECRET_KEY.encode(), content, hashlib.sha256)[:16]
    return base64.urlsafe_b64encode(content + signature).decode().rstrip("=")


def links(page: int, pages: int | None, *, more: bool) -> str:
    kept = {name: value for name, value in request.args.items() if name != "page"}

    def link(number: int, relation: str) -> str:
        return f'<{request.path}?{urlencode({**kept, "page": number})}>; rel="{relation}"'

    found = [link(1, "first")]
    if page > 1:
        found.append(link(page - 1, "prev"))
    if more:
        found.append(link(page + 1, "next"))
    if pages:
        found.append(link(pages, "last"))
    return ", ".join(found)


def own_tasks() -> Any:
    return select(Task).where(Task.owner_id == g.user.id, Task.deleted_at.is_(None))


def own_task(task_id: int) -> Task | None:
    task: Task | None = db.session.scalar(own_tasks().where(Task.id == task_id))
    return task


@app.get("/health")
def health() -> dict[str, Any]:
    return {"status": "success", "message": "ok", "data": {"status": "healthy"}}


@app.get("/api/v1/tasks")
@login_required("tasks:read")
def list_tasks() -> Response:
    query = list_query.load(request.args.to_dict())
    page, per_page = query["page"], query["per_page"]
    newest_first = own_tasks().order_by(Task.created_at.desc(), Task.id.desc())
    total = pages = None
    if query["count"]:
        found = db.paginate(newest_first, page=page, per_page=per_page, error_out=False)
        tasks, total, pages, more = found.items, found.total, found.pages, found.has_next
    else:
        window = newest_first.limit(per_page + 1).offset((page - 1) * per_page)
        tasks = db.session.scalars(window).all()
        tasks, more = tasks[:per_page], len(tasks) > per_page
    response = jsonify(
        {
            "status": "success",
            "message": "ok",
            "data": {
                "tasks": tasks_schema.dump(tasks),
                "total": total,
                "page": page,
                "pages": pages,
                "next_cursor": cursor_at(tasks[-1]) if more else None,
            },
        }
    )
    response.headers["Link"] = links(page, pages, more=more)
    return response


@app.get("/api/v1/tasks/<int:task_id>")
@login_required("tasks:read")
def read_task(task_id: int) -> Any:
    task = own_task(task_id)
    if task is None:
        return error(404, "task_not_found", "There is no such task")
    return carry(task)


@app.post("/api/v1/tasks")
@login_required("tasks:write")
def create_task() -> Any:
    values = task_input.load(request.get_json())
    task = Task(**values, title_key=values["title"].lower(), owner_id=g.user.id)
    if task.status == "completed":
        task.completed_at = func.now()
    db.session.add(task)
    db.session.commit()
    response = carry(task, "Task created")
    response.headers["Location"] = f"/api/v1/tasks/{task.id}"
    return response, 201


def merged(target: Any, patch: Any) -> Any:
    """`target` after the JSON Merge Patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@app.patch("/api/v1/tasks/<int:task_id>")
@login_required("tasks:write")
def update_task(task_id: int) -> Any:
    changes = task_input.load(request.get_json(), partial=True)
    task = db.session.scalar(own_tasks().where(Task.id == task_id).with_for_update())
    if task is None:
        return error(404, "task_not_found", "There is no such task")
    if "metadata_" in changes:
        changes["metadata_"] = merged(task.metadata_, changes["metadata_"])
    for name, value in changes.items():
        setattr(task, name, value)
    if db.session.is_modified(task):
        task.title_key = task.title.lower()
        task.version += 1
        task.updated_at = func.now()
        if task.status != "completed":
            task.completed_at = None
        elif task.completed_at is None:
            task.completed_at = func.now()
        db.session.commit()
    return carry(task, "Task updated")
