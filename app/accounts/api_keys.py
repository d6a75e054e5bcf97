"""API keys: credentials for machines, which their owners make, list and delete."""

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.audit import audit, audit_when_committed
from app.accounts.credentials import (
    KEY_PREFIX,
    Actor,
    credential_is_live,
    ensure_credential_is_live,
)
from app.accounts.errors import (
    ApiKeyNotFound,
    InsufficientScope,
    TooManyApiKeys,
    Unauthenticated,
)
from app.accounts.models import Credential, CredentialKind, User
from app.accounts.schemas import MAXIMUM_KEYS, ApiKeyCreate
from app.core.errors import ValidationFailed
from app.core.responses import FieldError
from app.core.security import new_token, shown_prefix, token_digest
from app.core.settings import Settings
from app.db.session import Session


def _is_key_of(actor: Actor) -> ColumnElement[bool]:
    """The keys that the actor sees: the expired ones too, until they are deleted."""
    return and_(
        Credential.user_id == actor.user_id,
        Credential.kind == CredentialKind.API_KEY,
        Credential.revoked_at.is_(None),
        credential_is_live(actor),
    )


async def create_api_key(
    transaction: AsyncSession, actor: Actor, data: ApiKeyCreate, *, settings: Settings
) -> tuple[Credential, str]:
    """Make a key; returns it and its token, which is stored nowhere.

    Raises `InsufficientScope` for scopes that the actor does not have, `ValidationFailed` for an
    end in the past, `TooManyApiKeys`, and `Unauthenticated` if the actor's credential has ended.
    """
    if not actor.scopes.issuperset(data.scopes):
        raise InsufficientScope(set(data.scopes) - actor.scopes)
    if data.expires_at is not None and data.expires_at <= datetime.now(UTC):
        fault = FieldError(
            field="body.expires_at", message="This is in the past", code="out_of_range"
        )
        raise ValidationFailed(errors=[fault])
    # The lock makes closing, deactivating and other new keys wait for this one, or this one for
    # them: the count below is of a moment at which nobody else adds a key or ends all of them.
    owner = select(User.id).where(
        User.id == actor.user_id, User.is_active, credential_is_live(actor)
    )
    if await transaction.scalar(owner.with_for_update(key_share=True)) is None:
        raise Unauthenticated
    present = await transaction.scalar(select(func.count(Credential.id)).where(_is_key_of(actor)))
    if (present or 0) >= MAXIMUM_KEYS:
        raise TooManyApiKeys
    token = new_token(KEY_PREFIX)
    statement = insert(Credential).values(
        user_id=actor.user_id,
        kind=CredentialKind.API_KEY,
        digest=token_digest(token, settings.secret_keys[0]),
        scopes=sorted(data.scopes),
        name=data.name,
        prefix=shown_prefix(token, prefix=KEY_PREFIX),
        expires_at=data.expires_at,
    )
    key = (await transaction.scalars(statement.returning(Credential))).one()
    audit_when_committed(
        transaction, "api_key_created", user_id=actor.user_id, credential_id=key.id
    )
    return key, token


async def list_api_keys(session: AsyncSession, actor: Actor) -> list[Credential]:
    """The actor's keys, newest first. Raises `Unauthenticated` if the credential has ended."""
    statement = select(Credential).where(_is_key_of(actor)).order_by(Credential.id.desc())
    keys = list(await session.scalars(statement))
    if not keys:
        await ensure_credential_is_live(Session(session), actor)
    return keys


async def delete_api_key(session: AsyncSession, actor: Actor, key_id: int) -> None:
    """End a key, on every worker with its next request. Raises `ApiKeyNotFound`."""
    statement = (
        update(Credential)
        .where(Credential.id == key_id, _is_key_of(actor))
        .values(revoked_at=func.now())
        .returning(Credential.id)
        .execution_options(synchronize_session=False)
    )
    if await session.scalar(statement) is None:
        raise ApiKeyNotFound
    audit("api_key_deleted", user_id=actor.user_id, credential_id=key_id)
