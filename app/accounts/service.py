"""What can be done with accounts: the statements behind the routers and the command line."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import ColumnElement, String, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.credentials import (
    LOGIN_PREFIX,
    SCOPES,
    TOKEN_PREFIXES,
    Actor,
    credential_is_live,
)
from app.accounts.errors import EmailTaken, OAuthError, Unauthenticated, UsernameTaken
from app.accounts.models import (
    EMAIL_MAX_LENGTH,
    Credential,
    CredentialKind,
    User,
)
from app.accounts.schemas import (
    AccountClosing,
    PasswordChange,
    PasswordGrant,
    UserCreate,
    UserUpdate,
)
from app.core.errors import ValidationFailed
from app.core.responses import FieldError
from app.core.security import (
    PasswordHasher,
    is_well_formed_token,
    new_token,
    token_digest,
)
from app.core.settings import Settings
from app.db.errors import violated_constraint


@dataclass(frozen=True, slots=True)
class IssuedLogin:
    """A login token, on its only way out, and what it may do."""

    token: str
    scopes: list[str]
    expires_in: int

    def __repr__(self) -> str:
        return f"IssuedLogin(scopes={self.scopes!r})"


def email_key(email: str) -> str:
    """What makes an address unique: NFKC, with its case folded."""
    folded = unicodedata.normalize("NFKC", email).casefold()
    return unicodedata.normalize("NFKC", folded)


def check_password_policy(password: str, settings: Settings, *, field: str) -> None:
    """Raise `ValidationFailed` on `field` if the password is shorter than the operator allows."""
    if len(password) < settings.password_min_length:
        message = f"The password must have at least {settings.password_min_length} characters"
        raise ValidationFailed(errors=[FieldError(field=field, message=message, code="too_short")])


async def register_user(
    session: AsyncSession, data: UserCreate, *, hasher: PasswordHasher, settings: Settings
) -> User:
    """Create an account.

    Raises `ValidationFailed` for a password against the policy, `UsernameTaken` and `EmailTaken`.
    """
    password = data.password.get_secret_value()
    check_password_policy(password, settings, field="body.password")
    statement = (
        insert(User)
        .values(
            username=data.username,
            email=data.email,
            email_key=email_key(data.email),
            password_hash=await hasher.hash(password),
        )
        .returning(User)
    )
    with _taken_names_told():
        return (await session.scalars(statement)).one()


@contextmanager
def _taken_names_told() -> Iterator[None]:
    """Turn the refusals of the unique indexes into `UsernameTaken` and `EmailTaken`."""
    try:
        yield
    except IntegrityError as error:
        match violated_constraint(error):
            case "uq_users_username":
                raise UsernameTaken from None
            case "uq_users_email_key":
                raise EmailTaken from None
        raise


async def log_in(
    session: AsyncSession, grant: PasswordGrant, *, hasher: PasswordHasher, settings: Settings
) -> IssuedLogin:
    """Exchange a name and a password for a login token.

    Raises `OAuthError`: `unsupported_grant_type`, `invalid_scope`, and `invalid_grant` for an
    unknown name, a wrong password and an inactive user alike, after the same time.
    """
    if grant.grant_type != "password":
        raise OAuthError("unsupported_grant_type", "grant_type must be: password")
    asked = grant.scope.split()
    if not SCOPES.keys() >= set(asked):
        raise OAuthError("invalid_scope", f"scope may hold: {' '.join(SCOPES)}")
    scopes = sorted(set(asked) or SCOPES.keys())

    password = grant.password.get_secret_value()
    # Once more if the password's hash has changed under us, as it does when another login of the
    # same user has raised its parameters.
    for _ in range(2):
        user = await find_user(session, grant.username)
        # The connection goes back to the pool while Argon2 works.
        await session.close()
        matches, rehashed = await hasher.verify(password, user.password_hash if user else None)
        if user is None or not matches or not user.is_active:
            break
        if issued := await _issue_login(session, user, scopes, settings=settings):
            if rehashed is not None:
                statement = update(User).where(_is_unchanged(user))
                await session.execute(statement.values(password_hash=rehashed))
            return issued
    raise OAuthError("invalid_grant", "Wrong username or password")


async def _issue_login(
    session: AsyncSession, user: User, scopes: list[str], *, settings: Settings
) -> IssuedLogin | None:
    """Store a login; None if the user was deactivated or has another password since it was read.

    Clears the user's expired logins away.
    """
    token = new_token(LOGIN_PREFIX)
    statement = insert(Credential).from_select(
        ["user_id", "kind", "digest", "scopes", "expires_at"],
        select(
            User.id,
            literal(CredentialKind.LOGIN, Credential.kind.type),
            literal(token_digest(token, secret_key=settings.secret_key.get_secret_value())),
            literal(scopes, Credential.scopes.type),
            func.now() + timedelta(seconds=settings.login_token_ttl),
        )
        # Deactivating and changing a password revoke every login that stands. The shared lock makes
        # the two wait for each other, so that none slips in between.
        .where(_is_unchanged(user), User.is_active)
        .with_for_update(read=True),
    )
    if await session.scalar(statement.returning(Credential.id)) is None:
        return None
    await session.execute(
        delete(Credential).where(
            Credential.user_id == user.id,
            Credential.kind == CredentialKind.LOGIN,
            Credential.expires_at < func.now(),
        )
    )
    return IssuedLogin(token, scopes, settings.login_token_ttl)


async def find_user(session: AsyncSession, name: str) -> User | None:
    """The account with this username, or with this email address if it holds an `@`."""
    if len(name) > EMAIL_MAX_LENGTH or "\x00" in name:
        # PostgreSQL takes no NUL, and nobody has such a name.
        return None
    if "@" in name:
        condition = User.email_key == email_key(name)
    else:
        condition = func.lower(User.username) == func.lower(literal(name, String))
    return (await session.scalars(select(User).where(condition))).one_or_none()


async def read_own_account(session: AsyncSession, actor: Actor) -> User:
    """The actor's account. Raises `Unauthenticated` if the credential has ended."""
    statement = select(User).where(User.id == actor.user_id, credential_is_live(actor))
    user = (await session.scalars(statement)).one_or_none()
    if user is None:
        raise Unauthenticated
    return user


async def update_own_account(session: AsyncSession, actor: Actor, data: UserUpdate) -> User:
    """Apply a merge patch to the actor's account.

    Raises `UsernameTaken`, `EmailTaken`, and `Unauthenticated` if the credential has ended.
    """
    changes = data.model_dump()
    if "email" in changes:
        changes["email_key"] = email_key(changes["email"])
    if not changes:
        return await read_own_account(session, actor)
    statement = update(User).where(User.id == actor.user_id, credential_is_live(actor))
    with _taken_names_told():
        user = (await session.scalars(statement.values(changes).returning(User))).one_or_none()
    if user is None:
        raise Unauthenticated
    return user


async def _check_own_password(
    session: AsyncSession, actor: Actor, password: SecretStr, *, field: str, hasher: PasswordHasher
) -> User:
    """The actor's account, if the password is right; else `ValidationFailed` on `field`."""
    user = await read_own_account(session, actor)
    # The connection goes back to the pool while Argon2 works.
    await session.close()
    matches, _ = await hasher.verify(password.get_secret_value(), user.password_hash)
    if not matches:
        raise _wrong_password(field)
    return user


def _is_unchanged(user: User) -> ColumnElement[bool]:
    """Whether the user still has the password that was checked."""
    return (User.id == user.id) & (User.password_hash == user.password_hash)


def _wrong_password(field: str) -> ValidationFailed:
    fault = FieldError(field=field, message="This is not the password", code="incorrect")
    return ValidationFailed(errors=[fault])


async def change_own_password(
    session: AsyncSession,
    transaction: AsyncSession,
    actor: Actor,
    data: PasswordChange,
    *,
    hasher: PasswordHasher,
    settings: Settings,
) -> None:
    """Replace the actor's password and end all logins but the actor's own; API keys stay.

    Raises `ValidationFailed` for a wrong current password or a new one against the policy.
    """
    password = data.new_password.get_secret_value()
    check_password_policy(password, settings, field="body.new_password")
    field = "body.current_password"
    new_hash = await hasher.hash(password)
    # Once more if the hash has changed under us: by a login that raised its parameters, or by
    # another change, after which the current password is no longer the current one.
    for _ in range(2):
        user = await _check_own_password(
            session, actor, data.current_password, field=field, hasher=hasher
        )
        statement = update(User).where(_is_unchanged(user), credential_is_live(actor))
        statement = statement.values(password_hash=new_hash)
        if await transaction.scalar(statement.returning(User.id)) is not None:
            # A statement of its own, so that it sees the logins that the first one waited for.
            await revoke_credentials(
                transaction, user, kinds=[CredentialKind.LOGIN], spare=actor.credential_id
            )
            return
    raise _wrong_password(field)


async def close_own_account(
    session: AsyncSession, actor: Actor, data: AccountClosing, *, hasher: PasswordHasher
) -> None:
    """Remove the actor's account with all that it owns. Raises `ValidationFailed`."""
    field = "body.password"
    for _ in range(2):
        user = await _check_own_password(session, actor, data.password, field=field, hasher=hasher)
        statement = delete(User).where(_is_unchanged(user), credential_is_live(actor))
        if await session.scalar(statement.returning(User.id)) is not None:
            return
    raise _wrong_password(field)


async def revoke_token(session: AsyncSession, token: str, *, settings: Settings) -> None:
    """End the credential behind a token, if there is one. Says nothing about whether there was."""
    if not is_well_formed_token(token, prefixes=TOKEN_PREFIXES):
        return
    digest = token_digest(token, secret_key=settings.secret_key.get_secret_value())
    statement = update(Credential).where(
        Credential.digest == digest, Credential.revoked_at.is_(None)
    )
    await session.execute(statement.values(revoked_at=func.now()))


async def list_users(session: AsyncSession) -> list[User]:
    """Every account, oldest first; for operators."""
    return list(await session.scalars(select(User).order_by(User.id)))


async def set_active(session: AsyncSession, user: User, *, active: bool) -> None:
    """Let a user in or keep a user out. Deactivating ends every credential at once.

    Must run in a transaction.
    """
    await session.execute(update(User).where(User.id == user.id).values(is_active=active))
    if not active:
        await revoke_credentials(session, user, kinds=list(CredentialKind))


async def set_password(session: AsyncSession, user: User, password_hash: str) -> None:
    """Replace a password and end the logins made with the old one; API keys stay.

    Must run in a transaction.
    """
    await session.execute(
        update(User).where(User.id == user.id).values(password_hash=password_hash)
    )
    await revoke_credentials(session, user, kinds=[CredentialKind.LOGIN])


async def revoke_credentials(
    session: AsyncSession, user: User, *, kinds: list[CredentialKind], spare: int = 0
) -> None:
    """End the user's credentials of these kinds, but for the one with the id `spare`.

    Holds on every worker with the next statement.
    """
    statement = update(Credential).where(
        Credential.user_id == user.id,
        Credential.kind.in_(kinds),
        Credential.id != spare,
        Credential.revoked_at.is_(None),
    )
    await session.execute(statement.values(revoked_at=func.now()))
