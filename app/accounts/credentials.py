"""Who is asking: bearer credentials, checked at once everywhere and without a query of their own.

A worker remembers whom a credential belongs to. What may change about a credential, its end, is
never taken from memory: every statement on owned rows carries `credential_is_live` as a guard, so
that under a credential no statement which begins after its revocation is committed reads or writes
anything. One that has begun before, and waits for another's lock, is still carried out.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, cast

import structlog
from fastapi import Request, Security
from fastapi.params import Depends as DependsParameter
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import BigInteger, ColumnElement, bindparam, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.errors import InsufficientScope, Unauthenticated
from app.accounts.models import Credential, Scope, User
from app.core.metrics import AUTHENTICATIONS
from app.core.rate_limits import RateLimited, spend
from app.core.routing import API, Authenticator
from app.core.security import is_well_formed_token, token_digest
from app.db.errors import DATABASE_ERRORS, report
from app.db.session import Session, get_database
from app.db.statements import Statement

if TYPE_CHECKING:
    from app.core.settings import Settings

LOGIN_PREFIX = "tfu_"
KEY_PREFIX = "tfk_"
TOKEN_PREFIXES = (LOGIN_PREFIX, KEY_PREFIX)
# How exactly `last_used_at` is kept; more often would be a write for each request.
NOTE_USE_EVERY_SECONDS = 60

REMEMBERED, LOOKED_UP, REFUSED = map(AUTHENTICATIONS.labels, ("remembered", "looked_up", "refused"))

SCOPES: dict[str, str] = {
    Scope.TASKS_READ: "Read tasks",
    Scope.TASKS_WRITE: "Create, change and delete tasks",
    Scope.ACCOUNT_READ: "Read the account and its API keys",
    Scope.ACCOUNT_WRITE: "Change the account and its API keys",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sends a request: a user, by one of the user's credentials, and what that one may do.

    None of it changes while the credential lives, so it may be remembered.
    """

    user_id: int
    credential_id: int
    scopes: frozenset[str]


class ActorCache:
    """The actors behind the credentials that this worker met, by digest; the oldest go first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._actors: dict[bytes, Actor] = {}
        self._use_noted_at: dict[bytes, float] = {}

    def get(self, digest: bytes) -> Actor | None:
        return self._actors.get(digest)

    def put(self, digest: bytes, actor: Actor) -> None:
        if digest not in self._actors and len(self._actors) >= self._capacity:
            self.drop(next(iter(self._actors)))
        self._actors[digest] = actor

    def drop(self, digest: bytes) -> None:
        self._actors.pop(digest, None)
        self._use_noted_at.pop(digest, None)

    def use_is_due(self, digest: bytes) -> bool:
        """Whether to write down the use of a credential now; whoever is told so has to do it.

        That is once in `NOTE_USE_EVERY_SECONDS`.
        """
        now = time.monotonic()
        due = (
            now - self._use_noted_at.get(digest, -NOTE_USE_EVERY_SECONDS) >= NOTE_USE_EVERY_SECONDS
        )
        if due and digest in self._actors:
            self._use_noted_at[digest] = now
        return due


def _not_ended() -> ColumnElement[bool]:
    return Credential.revoked_at.is_(None) & or_(
        Credential.expires_at.is_(None), Credential.expires_at > func.now()
    )


ANY_ACTOR = Actor(
    user_id=cast("int", bindparam("user_id", type_=BigInteger())),
    credential_id=cast("int", bindparam("credential_id", type_=BigInteger())),
    scopes=frozenset(),
)
"""Stands for whoever asks, in statements that are compiled once; they take `values_of_actor`."""


def values_of_actor(actor: Actor) -> dict[str, int]:
    return {"user_id": actor.user_id, "credential_id": actor.credential_id}


def credential_is_live(actor: Actor) -> ColumnElement[bool]:
    """The guard: true while the actor's credential is neither revoked nor expired.

    It goes into every statement on what the actor owns. PostgreSQL evaluates it once per statement.
    """
    return exists().where(Credential.id == actor.credential_id, _not_ended())


_IS_LIVE = Statement(select(credential_is_live(ANY_ACTOR).label("is_live")))


async def ensure_credential_is_live(session: Session, actor: Actor) -> None:
    """Raise `Unauthenticated` if a guarded statement found nothing because its guard was false."""
    if not (await session.fetch(_IS_LIVE, values_of_actor(actor)))[0]["is_live"]:
        raise Unauthenticated


async def _find_actor(session: AsyncSession, digests: list[bytes]) -> Actor | None:
    statement = (
        select(Credential.user_id, Credential.id, Credential.scopes)
        .join(User, User.id == Credential.user_id)
        .where(Credential.digest.in_(digests), _not_ended(), User.is_active)
    )
    row = (await session.execute(statement)).one_or_none()
    return row and Actor(row.user_id, row.id, frozenset(row.scopes))


async def _note_use(session: AsyncSession, actor: Actor, digest: bytes) -> None:
    """Write down that a credential was used, unless that has been done within the last minute.

    One that was stored under a previous `SECRET_KEY` comes under the present one.
    """
    noted_before = func.now() - timedelta(seconds=NOTE_USE_EVERY_SECONDS)
    statement = (
        update(Credential)
        .where(
            Credential.id == actor.credential_id,
            or_(
                Credential.last_used_at.is_(None),
                Credential.last_used_at < noted_before,
                Credential.digest != digest,
            ),
        )
        .values(last_used_at=func.now(), digest=digest)
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)


class BearerCredential(OAuth2PasswordBearer, Authenticator):
    """`Authorization: Bearer …`, a login token or an API key."""

    errors = (Unauthenticated, InsufficientScope, RateLimited)

    async def authenticate(self, request: Request, scopes: frozenset[str]) -> None:
        """Find out who is asking.

        Raises `Unauthenticated` for no, several, malformed, unknown, expired or revoked
        credentials and for inactive users, `RateLimited` for too many requests, and
        `InsufficientScope` for a lack of any of `scopes`.
        """
        given = [value for name, value in request.scope["headers"] if name == b"authorization"]
        scheme, _, token = (given[0].decode("latin-1") if len(given) == 1 else "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer":
            REFUSED.inc()
            raise Unauthenticated
        settings: Settings = request.app.state.settings
        actors: ActorCache = request.app.state.actors
        digest = token_digest(token, settings.secret_keys[0])
        actor = actors.get(digest)
        if actor is not None:
            REMEMBERED.inc()
        else:
            if not is_well_formed_token(token, prefixes=TOKEN_PREFIXES):
                REFUSED.inc()
                raise Unauthenticated
            digests = [token_digest(token, key) for key in settings.secret_keys]
            async with get_database(request).session() as session:
                actor = await _find_actor(session, digests)
            if actor is None:
                REFUSED.inc()
                raise Unauthenticated
            LOOKED_UP.inc()
            actors.put(digest, actor)
        request.scope["taskflow.actor"] = actor
        request.scope["taskflow.digest"] = digest
        request.scope["taskflow.user_id"] = actor.user_id
        structlog.contextvars.bind_contextvars(user_id=actor.user_id)
        await spend(request, "api", settings.rate_limit_api, str(actor.credential_id))
        if actors.use_is_due(digest):
            try:
                async with get_database(request).session() as session:
                    await _note_use(session, actor, digest)
            except DATABASE_ERRORS as error:
                # A database that takes no writes may still answer what was asked.
                report(error)
        if not scopes <= actor.scopes:
            raise InsufficientScope(scopes)

    async def confirm(self, request: Request) -> None:
        """Raise `Unauthenticated` if the actor's credential has ended since it was looked up."""
        actor = request.scope.get("taskflow.actor")
        if actor is None:
            return
        try:
            await ensure_credential_is_live(Session(get_database(request)), actor)
        except Unauthenticated:
            request.app.state.actors.drop(request.scope["taskflow.digest"])
            raise

    async def __call__(self, request: Request) -> Actor:  # type: ignore[override]  # the actor, not the token
        """The actor that `authenticate` found; the strict route has called it before."""
        actor: Actor = request.scope["taskflow.actor"]
        return actor


bearer = BearerCredential(
    tokenUrl=f"{API}/auth/token",
    scheme_name="Login",
    scopes=SCOPES,
    description=(
        "A login: the token that `POST /api/v1/auth/token` gives for a password. It is opaque: no "
        "JWT, for which RFC8725 would hold."
    ),
)

CurrentUser = Annotated[Actor, Security(bearer)]


def requires(scope: str) -> DependsParameter:
    """For an operation's `dependencies`: the scope that its caller's credential must have."""
    return Security(bearer, scopes=[scope])  # type: ignore[no-any-return]  # typed as Any for defaults
