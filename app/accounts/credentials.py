"""Who is asking: bearer credentials, checked at once everywhere and without a query of their own.

A worker remembers whom a credential belongs to. What may change about a credential, its end, is
never taken from memory: every statement on owned rows carries `credential_is_live` as a guard, so
that a revoked credential reads and writes nothing from the moment the revocation is committed.
"""

from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Request, Security
from fastapi.params import Depends as DependsParameter
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.errors import InsufficientScope, Unauthenticated
from app.accounts.models import Credential, User
from app.core.routing import Authenticator
from app.core.security import is_well_formed_token, token_digest
from app.db.session import get_database

LOGIN_PREFIX = "tfu_"
TOKEN_PREFIXES = (LOGIN_PREFIX,)

SCOPES = {
    "tasks:read": "Read tasks",
    "tasks:write": "Create, change and delete tasks",
    "account:read": "Read the account",
    "account:write": "Change the account",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, by one of the user's credentials. Nothing in here changes while the latter lives."""

    user_id: int
    credential_id: int
    scopes: frozenset[str]


class ActorCache:
    """The actors behind the credentials that this worker met, by digest; the oldest go first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._actors: dict[bytes, Actor] = {}

    def get(self, digest: bytes) -> Actor | None:
        return self._actors.get(digest)

    def put(self, digest: bytes, actor: Actor) -> None:
        if digest not in self._actors and len(self._actors) >= self._capacity:
            del self._actors[next(iter(self._actors))]
        self._actors[digest] = actor

    def drop(self, digest: bytes) -> None:
        self._actors.pop(digest, None)


def _not_ended() -> ColumnElement[bool]:
    return Credential.revoked_at.is_(None) & or_(
        Credential.expires_at.is_(None), Credential.expires_at > func.now()
    )


def credential_is_live(actor: Actor) -> ColumnElement[bool]:
    """The guard: true while the actor's credential is neither revoked nor expired.

    It goes into every statement on what the actor owns. PostgreSQL evaluates it once per statement.
    """
    return exists().where(Credential.id == actor.credential_id, _not_ended())


async def ensure_credential_is_live(session: AsyncSession, actor: Actor) -> None:
    """Raise `Unauthenticated` if a guarded statement found nothing because its guard was false."""
    if not await session.scalar(select(credential_is_live(actor))):
        raise Unauthenticated


async def _find_actor(session: AsyncSession, digest: bytes) -> Actor | None:
    statement = (
        select(Credential.user_id, Credential.id, Credential.scopes)
        .join(User, User.id == Credential.user_id)
        .where(Credential.digest == digest, _not_ended(), User.is_active)
    )
    row = (await session.execute(statement)).one_or_none()
    return row and Actor(row.user_id, row.id, frozenset(row.scopes))


class BearerCredential(OAuth2PasswordBearer, Authenticator):
    """`Authorization: Bearer …`, a login token."""

    async def authenticate(self, request: Request, scopes: frozenset[str]) -> None:
        """Find out who is asking.

        Raises `Unauthenticated` for no, several, malformed, unknown, expired or revoked
        credentials and for inactive users, `InsufficientScope` for a lack of any of `scopes`.
        """
        given = request.headers.getlist("authorization")
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not is_well_formed_token(token, prefixes=TOKEN_PREFIXES):
            raise Unauthenticated
        state = request.app.state
        digest = token_digest(token, secret_key=state.settings.secret_key.get_secret_value())
        actor = state.actors.get(digest)
        if actor is not None:
            request.scope["taskflow.remembered"] = digest
        else:
            async with get_database(request).session() as session:
                actor = await _find_actor(session, digest)
            if actor is None:
                raise Unauthenticated
            state.actors.put(digest, actor)
        request.scope["taskflow.actor"] = actor
        request.scope["taskflow.user_id"] = actor.user_id
        structlog.contextvars.bind_contextvars(user_id=actor.user_id)
        if not scopes <= actor.scopes:
            raise InsufficientScope(scopes)

    async def confirm(self, request: Request) -> None:
        """Raise `Unauthenticated` if the actor was remembered and the credential has ended."""
        digest = request.scope.get("taskflow.remembered")
        if digest is None:
            return
        async with get_database(request).session() as session:
            try:
                await ensure_credential_is_live(session, request.scope["taskflow.actor"])
            except Unauthenticated:
                request.app.state.actors.drop(digest)
                raise

    async def __call__(self, request: Request) -> Actor:  # type: ignore[override]  # the actor, not the token
        """The actor that `authenticate` found; the strict route has called it before."""
        actor: Actor = request.scope["taskflow.actor"]
        return actor


bearer = BearerCredential(
    tokenUrl="/api/v1/auth/token",
    scheme_name="Bearer",
    scopes=SCOPES,
    description="A login token from `POST /api/v1/auth/token`.",
)

CurrentUser = Annotated[Actor, Security(bearer)]


def requires(scope: str) -> DependsParameter:
    """For an operation's `dependencies`: the scope that its caller's credential must have."""
    return Security(bearer, scopes=[scope])  # type: ignore[no-any-return]  # typed as Any for defaults
