"""Logins: exchanging a password for a token, and ending tokens of both kinds."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, delete, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.audit import audit
from app.accounts.credentials import LOGIN_PREFIX, SCOPES, TOKEN_PREFIXES
from app.accounts.errors import OAuthError
from app.accounts.models import Credential, CredentialKind, User
from app.accounts.passwords import PasswordGuesses
from app.accounts.schemas import PasswordGrant
from app.accounts.service import find_user, is_unchanged
from app.core.security import PasswordHasher, is_well_formed_token, new_token, token_digest
from app.core.settings import Settings


@dataclass(frozen=True, slots=True)
class IssuedLogin:
    """A new login token, which is stored nowhere, and what it may do."""

    token: str
    scopes: list[str]
    expires_in: int

    def __repr__(self) -> str:
        return f"IssuedLogin(scopes={self.scopes!r})"


async def log_in(
    session: AsyncSession,
    grant: PasswordGrant,
    guesses: PasswordGuesses,
    *,
    hasher: PasswordHasher,
    settings: Settings,
) -> IssuedLogin:
    """Exchange a name and a password for a login token.

    Raises `OAuthError`: `invalid_scope`, and `invalid_grant` for an unknown name, a wrong password
    and an inactive user alike, after the same time; and `RateLimited` after too many wrong guesses.
    """
    asked = grant.scope.split()
    if not SCOPES.keys() >= set(asked):
        raise OAuthError("invalid_scope", f"scope may hold: {' '.join(SCOPES)}")
    scopes = sorted(set(asked) or SCOPES.keys())

    await guesses.ensure_left(grant.username)
    password = grant.password.get_secret_value()
    # Once more if the password's hash has changed under us, as it does when another login of the
    # same user has raised its parameters.
    user = None
    for _ in range(2):
        user = await find_user(session, grant.username)
        # The connection goes back to the pool while Argon2 works.
        await session.close()
        async with guesses.counted_if_abandoned(grant.username):
            matches, rehashed = await hasher.verify(password, user.password_hash if user else None)
        if user is None or not matches or not user.is_active:
            break
        await guesses.ensure_left(grant.username)
        if issued := await _issue_login(session, user, scopes, settings=settings):
            if rehashed is not None:
                statement = update(User).where(is_unchanged(user))
                await session.execute(statement.values(password_hash=rehashed))
            return issued
    audit("login_failed", user_id=user.id if user else None)
    await guesses.count_wrong(grant.username)
    raise OAuthError("invalid_grant", "Wrong username or password")


async def _issue_login(
    session: AsyncSession, user: User, scopes: list[str], *, settings: Settings
) -> IssuedLogin | None:
    """Store a login; None if the user was deactivated or has another password since it was read.

    Clears away what the user has of expired logins and of revoked credentials.
    """
    token = new_token(LOGIN_PREFIX)
    statement = insert(Credential).from_select(
        ["user_id", "kind", "digest", "scopes", "expires_at"],
        select(
            User.id,
            literal(CredentialKind.LOGIN, Credential.kind.type),
            literal(token_digest(token, settings.secret_keys[0])),
            literal(scopes, Credential.scopes.type),
            func.now() + timedelta(seconds=settings.login_token_ttl),
        )
        # Deactivating and changing a password revoke every login that stands. The shared lock makes
        # the two wait for each other, so that none slips in between.
        .where(is_unchanged(user), User.is_active)
        .with_for_update(read=True),
    )
    credential_id = await session.scalar(statement.returning(Credential.id))
    if credential_id is None:
        return None
    audit("login", user_id=user.id, credential_id=credential_id)
    await session.execute(
        delete(Credential).where(
            Credential.user_id == user.id,
            or_(
                and_(Credential.kind == CredentialKind.LOGIN, Credential.expires_at < func.now()),
                Credential.revoked_at.is_not(None),
            ),
        )
    )
    return IssuedLogin(token, scopes, settings.login_token_ttl)


async def revoke_token(session: AsyncSession, token: str, *, settings: Settings) -> None:
    """End the credential behind a token, if there is one. Says nothing about whether there was."""
    if not is_well_formed_token(token, prefixes=TOKEN_PREFIXES):
        return
    digests = [token_digest(token, key) for key in settings.secret_keys]
    statement = (
        update(Credential)
        .where(Credential.digest.in_(digests), Credential.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(Credential.user_id, Credential.id)
        .execution_options(synchronize_session=False)
    )
    for user_id, credential_id in await session.execute(statement):
        audit("credential_revoked", user_id=user_id, credential_id=credential_id)
