"""`Idempotency-Key`: whoever repeats a write gets its first answer again, and one row.

A route of the class below claims the key, lets the endpoint do its work and stores the answer, all
in one transaction: with the write goes its key, and without the write there is none. Requests
without the header pass by at no cost.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import asyncpg
from anyio import to_thread
from fastapi import Request, Response
from sqlalchemy import (
    ColumnElement,
    Delete,
    String,
    bindparam,
    delete,
    func,
    literal,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from app.accounts.credentials import ANY_ACTOR, Actor, credential_is_live, values_of_actor
from app.accounts.errors import Unauthenticated
from app.core.errors import Overloaded, ValidationFailed
from app.core.metrics import IDEMPOTENT_REPLAYS
from app.core.responses import FieldError, FieldErrorCode
from app.core.routing import READ_AT_ONCE_BYTES, Handler, StrictRoute
from app.core.settings import Settings
from app.db.session import REQUEST_TRANSACTION, Transaction, get_database, milliseconds
from app.db.statements import Statement
from app.server.admission import Admission
from app.tasks.errors import IdempotencyInFlight, IdempotencyKeyReused
from app.tasks.models import IDEMPOTENCY_KEY_MAX_LENGTH, IdempotencyKey

LIFETIME = timedelta(hours=24)
WAIT_SECONDS = 5.0
# Each holds a body in memory.
MAXIMUM_WAITING = 100
# What an answer is made of, beside its status and its body.
KEPT_HEADERS = ("content-type", "location", "etag", "cache-control")

_BARE = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
# A string of RFC 8941, section 3.3.3, without its spaces.
_QUOTED = re.compile(r'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_DOCUMENTED_PATTERN = (
    rf"^(?:[\x21\x23-\x7e][\x21-\x7e]{{0,{IDEMPOTENCY_KEY_MAX_LENGTH - 1}}}"
    rf'|"(?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){{1,{IDEMPOTENCY_KEY_MAX_LENGTH}}}")$'
)

DOCUMENTED_HEADER: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": (
                f"Makes a repeat safe: 1 to {IDEMPOTENCY_KEY_MAX_LENGTH} visible ASCII characters, "
                "a UUID for example, bare or as a quoted string (RFC 8941); both forms are the "
                "same key. For 24 hours a repeat by the same user gives the first answer again, "
                "with `Idempotent-Replayed: true`, and changes nothing. It must have the same "
                "method, path and body: the same JSON, whatever its white space and the order of "
                "its members. While the first still runs, a repeat waits for it for up to 5 "
                "seconds. A request that failed leaves no key behind."
            ),
            "schema": {
                "type": "string",
                "minLength": 1,
                # As a quoted string, in which quotes are escaped.
                "maxLength": 2 * IDEMPOTENCY_KEY_MAX_LENGTH + 2,
                "pattern": _DOCUMENTED_PATTERN,
            },
            # Without an example, which Swagger UI would send with every request of a visitor.
        }
    ]
}
"""The header in the OpenAPI document, for an operation's `openapi_extra`."""

REPLAYED_HEADER: dict[str, Any] = {
    "Idempotent-Replayed": {
        "description": "There, and `true`, if this is the first answer once more.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
"""The header in the OpenAPI document, for the `headers` of a response."""


class IdempotentRoute(StrictRoute):
    """Use it for writes that must be safe to repeat. Endpoints need not know."""

    async def respond(self, request: Request, handle: Handler) -> Response:
        headers = request.scope["headers"]
        key = parse_key([value for name, value in headers if name == b"idempotency-key"])
        if key is None:
            return await handle(request)
        actor: Actor | None = request.scope.get("taskflow.actor")
        if actor is None:
            raise RuntimeError("a key belongs to a credential, which an override has none of")
        # The body is read before a connection is taken: clients may be slow.
        body = await request.json() if await request.body() else None
        sent = (request.method, request.scope["path"], body)
        if len(await request.body()) <= READ_AT_ONCE_BYTES:
            own = fingerprint(*sent)
        else:
            own = await to_thread.run_sync(fingerprint, *sent)
        turns: KeyTurns = request.app.state.key_turns
        database = get_database(request)
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        values = {**values_of_actor(actor), "key": key, "fingerprint": own}
        async with (
            turns.wait_for(actor, key, deadline=deadline),
            AsyncExitStack() as until_commit,
        ):
            async with turns.claiming():
                transaction = await until_commit.enter_async_context(database.begin())
                patience = deadline - asyncio.get_running_loop().time()
                claimed = await _claim(
                    transaction, values, patience=patience, later=turns.lock_timeout
                )
            if not claimed:
                # The claim that failed has locked the row, and so the commit of this transaction
                # waits for a synchronous standby too: a first commit that was given up waiting
                # for it shows its answer already, and is to be lost with the primary.
                answer = await _first_answer(transaction, values)
                if answer is None:
                    # For live credentials a row that was locked is there.
                    raise Unauthenticated
                return answer
            request.scope[REQUEST_TRANSACTION] = transaction
            response = await handle(request)
            await _keep(transaction, values, response)
        return response


def parse_key(values: list[bytes]) -> str | None:
    """The key in the values of the header; None without the header. Raises `ValidationFailed`."""
    if not values:
        return None
    if len(values) > 1:
        raise _refused("duplicate", "This header is given more than once")
    value = values[0].decode("latin-1").strip(" \t")
    if quoted := _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    elif value and not _BARE.fullmatch(value):
        message = "Input should be visible ASCII characters, bare or as a quoted string"
        raise _refused("invalid", message)
    if not value:
        raise _refused("too_short", "Input should not be blank")
    if len(value) > IDEMPOTENCY_KEY_MAX_LENGTH:
        message = f"Input should have at most {IDEMPOTENCY_KEY_MAX_LENGTH} characters"
        raise _refused("too_long", message)
    return value


def _refused(code: FieldErrorCode, message: str) -> ValidationFailed:
    fault = FieldError(field="header.idempotency-key", message=message, code=code)
    return ValidationFailed(errors=[fault])


def fingerprint(method: str, path: str, body: object) -> bytes:
    """What must be equal in a repeat; `body` is decoded JSON."""
    return hashlib.sha256(json.dumps((method, path, body), sort_keys=True).encode()).digest()


class KeyTurns:
    """Keeps a worker's connections for those that work, while others wait for a key.

    Of the requests with the same key one at a time goes to the database; the others wait here,
    without a connection. At most half of the pool may wait for keys that other workers hold.
    """

    def __init__(self, settings: Settings, admission: Admission) -> None:
        self._admission = admission
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self._waiting = 0
        self._claims = asyncio.Semaphore(max(1, settings.database_pool_size // 2))
        self._claim_timeout = settings.database_pool_timeout
        self.lock_timeout = milliseconds(settings.database_lock_timeout)

    @asynccontextmanager
    async def wait_for(self, actor: Actor, key: str, *, deadline: float) -> AsyncGenerator[None]:
        """Be the only one in this worker who uses the key. Raises `IdempotencyInFlight`."""
        lock = self._locks.setdefault((actor.user_id, key), asyncio.Lock())
        if lock.locked() and self._waiting >= MAXIMUM_WAITING:
            raise IdempotencyInFlight
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                with self._admission.aside():
                    await lock.acquire()
        except TimeoutError:
            raise IdempotencyInFlight from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def claiming(self) -> AsyncGenerator[None]:
        """Be one of the few who may wait inside the database. Raises `Overloaded`."""
        try:
            async with asyncio.timeout(self._claim_timeout):
                await self._claims.acquire()
        except TimeoutError:
            raise Overloaded from None
        try:
            yield
        finally:
            self._claims.release()


_USER_ID = type_coerce(ANY_ACTOR.user_id, IdempotencyKey.owner_id.type)
_GIVEN = {
    name: bindparam(name, type_=IdempotencyKey.__table__.c[name].type)
    for name in ("key", "fingerprint", "status", "headers", "body")
}
_IS_OF_KEY = (IdempotencyKey.owner_id == _USER_ID) & (IdempotencyKey.key == _GIVEN["key"])


def _lock_timeout(name: str) -> ColumnElement[str]:
    """Sets the transaction's, as soon as it is evaluated, to the parameter of this name."""
    return func.set_config("lock_timeout", bindparam(name, type_=String()), True)  # noqa: FBT003 - PostgreSQL's own


def _claim_key() -> ReturningInsert[Any]:
    """Insert the key, or take over one that has expired; returns a row if that was done."""
    columns: dict[str, ColumnElement[Any]] = {
        "owner_id": _USER_ID,
        "key": _GIVEN["key"],
        "fingerprint": _GIVEN["fingerprint"],
        # The answer comes before the commit: nobody ever sees these.
        "status": literal(0, IdempotencyKey.status.type),
        "headers": literal({}, IdempotencyKey.headers.type),
        "body": literal(b"", IdempotencyKey.body.type),
    }
    # Before the row is there to be inserted, and has to wait for another's.
    waits = _lock_timeout("patience").is_not(None)
    source = select(*columns.values()).where(credential_is_live(ANY_ACTOR), waits)
    statement = insert(IdempotencyKey).from_select(list(columns), source)
    return statement.on_conflict_do_update(
        index_elements=[IdempotencyKey.owner_id, IdempotencyKey.key],
        set_={"fingerprint": statement.excluded.fingerprint, "created_at": func.now()},
        where=IdempotencyKey.created_at < func.now() - LIFETIME,
        # The write that follows may wait as long as any other.
    ).returning(_lock_timeout("later"))


_CLAIM_KEY = Statement(_claim_key())
_READ_ANSWER = Statement(
    select(
        IdempotencyKey.fingerprint,
        IdempotencyKey.status,
        IdempotencyKey.headers,
        IdempotencyKey.body,
    ).where(
        _IS_OF_KEY,
        IdempotencyKey.created_at >= func.now() - LIFETIME,
        credential_is_live(ANY_ACTOR),
    )
)
_KEEP_ANSWER = Statement(
    update(IdempotencyKey)
    .where(_IS_OF_KEY)
    .values({name: _GIVEN[name] for name in ("status", "headers", "body")})
)


async def _claim(
    transaction: Transaction, values: dict[str, Any], *, patience: float, later: str
) -> bool:
    """Make the key the transaction's own; False if it was used, or if the credential has ended.

    Waits for another transaction that has the key, for `patience` seconds; then raises
    `IdempotencyInFlight`. `later` is the transaction's limit for other locks.
    """
    timeouts = {"patience": milliseconds(patience), "later": later}
    try:
        return bool(await transaction.fetch(_CLAIM_KEY, values | timeouts))
    except asyncpg.LockNotAvailableError:
        raise IdempotencyInFlight from None
    except asyncpg.ForeignKeyViolationError:
        # The account was closed after the statement had begun.
        raise Unauthenticated from None


async def _first_answer(transaction: Transaction, values: dict[str, Any]) -> Response | None:
    """What the first request with the key was answered; None if there is no answer to be had.

    Raises `IdempotencyKeyReused` if that was another request.
    """
    rows = await transaction.fetch(_READ_ANSWER, values)
    if not rows:
        return None
    first = rows[0]
    if first["fingerprint"] != values["fingerprint"]:
        raise IdempotencyKeyReused
    IDEMPOTENT_REPLAYS.inc()
    headers = {**first["headers"], "Idempotent-Replayed": "true"}
    return Response(first["body"], status_code=first["status"], headers=headers)


async def _keep(transaction: Transaction, values: dict[str, Any], response: Response) -> None:
    """Store an answer with the key that the transaction has claimed."""
    kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    answer = {"status": response.status_code, "headers": kept, "body": bytes(response.body)}
    await transaction.fetch(_KEEP_ANSWER, values | answer)


def delete_expired_keys(at_once: int) -> Delete:
    """Remove keys that are older than 24 hours, at most `at_once` of them."""
    expired = (
        select(IdempotencyKey.owner_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - LIFETIME)
        .limit(at_once)
        # A key that is just being taken over is not expired any more.
        .with_for_update(skip_locked=True)
        # As a subquery it could be run more than once, and find others each time.
        .cte("expired")
    )
    return delete(IdempotencyKey).where(
        tuple_(IdempotencyKey.owner_id, IdempotencyKey.key).in_(select(*expired.c))
    )
