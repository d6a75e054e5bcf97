"""What can be done with accounts: the statements behind the routers and the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr
from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.audit import AuditEvent, audit, audit_when_committed
from app.accounts.credentials import Actor, credential_is_live
from app.accounts.errors import EmailTaken, Unauthenticated, UsernameTaken
from app.accounts.models import (
    Credential,
    CredentialKind,
    User,
    email_key,
    login_key,
)
from app.accounts.passwords import PasswordGuesses, check_password_policy
from app.accounts.schemas import AccountClosing, PasswordChange, UserCreate, UserUpdate
from app.core.errors import APIError, ValidationFailed
from app.core.responses import FieldError
from app.core.security import PasswordHasher
from app.core.settings import Settings
from app.db.errors import violated_constraint


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
                raise _taken(UsernameTaken, "username") from None
            case "uq_users_email_key":
                raise _taken(EmailTaken, "email") from None
        raise


def _taken(error: type[UsernameTaken | EmailTaken], name: str) -> APIError:
    fault = FieldError(field=f"body.{name}", message=error.message, code="duplicate")
    return error(errors=[fault])


async def find_user(session: AsyncSession, name: str) -> User | None:
    """The account with this username, or with this email address if it holds an `@`."""
    key = login_key(name)
    if key is None:
        return None
    if "@" in name:
        condition = User.email_key == key
    else:
        condition = func.lower(User.username.collate("C")) == key
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
    audit("account_changed", user_id=user.id)
    return user


async def _check_own_password(
    session: AsyncSession,
    actor: Actor,
    password: SecretStr,
    guesses: PasswordGuesses,
    *,
    field: str,
    hasher: PasswordHasher,
) -> User:
    """The actor's account, if the password is right; else `ValidationFailed` on `field`.

    Raises `RateLimited` after too many wrong guesses.
    """
    user = await read_own_account(session, actor)
    # The connection goes back to the pool while Argon2 works.
    await session.close()
    await guesses.ensure_left(user.username)
    async with guesses.counted_if_abandoned(user.username):
        matches, _ = await hasher.verify(password.get_secret_value(), user.password_hash)
    if not matches:
        audit("password_refused", user_id=user.id)
        await guesses.count_wrong(user.username)
        raise _wrong_password(field)
    await guesses.ensure_left(user.username)
    return user


def is_unchanged(user: User) -> ColumnElement[bool]:
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
    guesses: PasswordGuesses,
    *,
    hasher: PasswordHasher,
    settings: Settings,
) -> None:
    """Replace the actor's password and end all logins but the actor's own; API keys stay.

    Raises `ValidationFailed` for a wrong current password or a new one against the policy, and
    `RateLimited` after too many wrong ones.
    """
    password = data.new_password.get_secret_value()
    check_password_policy(password, settings, field="body.new_password")
    field = "body.current_password"
    # Once more if the hash has changed under us: by a login that raised its parameters, or by
    # another change, after which the current password is no longer the current one.
    for _ in range(2):
        user = await _check_own_password(
            session, actor, data.current_password, guesses, field=field, hasher=hasher
        )
        new_hash = await hasher.hash(password)
        statement = update(User).where(is_unchanged(user), credential_is_live(actor))
        statement = statement.values(password_hash=new_hash)
        if await transaction.scalar(statement.returning(User.id)) is not None:
            # A statement of its own, so that it sees the logins that the first one waited for.
            await revoke_credentials(
                transaction, user, kinds=[CredentialKind.LOGIN], spare=actor.credential_id
            )
            audit_when_committed(transaction, "password_changed", user_id=user.id)
            return
    raise _wrong_password(field)


async def close_own_account(
    session: AsyncSession,
    actor: Actor,
    data: AccountClosing,
    guesses: PasswordGuesses,
    *,
    hasher: PasswordHasher,
) -> None:
    """Remove the actor's account with all that it owns.

    Raises `ValidationFailed` for a wrong password, `RateLimited` after too many of them.
    """
    field = "body.password"
    for _ in range(2):
        user = await _check_own_password(
            session, actor, data.password, guesses, field=field, hasher=hasher
        )
        statement = delete(User).where(is_unchanged(user), credential_is_live(actor))
        if await session.scalar(statement.returning(User.id)) is not None:
            audit("account_closed", user_id=user.id)
            return
    raise _wrong_password(field)


async def list_users(session: AsyncSession) -> list[User]:
    """Every account, oldest first; for operators."""
    return list(await session.scalars(select(User).order_by(User.id)))


async def set_active(session: AsyncSession, user: User, *, active: bool) -> None:
    """Let a user in or keep a user out. Deactivating ends every credential at once.

    Must run in a transaction.
    """
    await session.execute(update(User).where(User.id == user.id).values(is_active=active))
    event: AuditEvent = "account_activated" if active else "account_deactivated"
    audit_when_committed(session, event, user_id=user.id)
    if not active:
        await revoke_credentials(session, user, kinds=list(CredentialKind))


async def set_password(session: AsyncSession, user: User, password_hash: str) -> None:
    """Replace a password and end the logins made with the old one; API keys stay.

    Must run in a transaction.
    """
    await session.execute(
        update(User).where(User.id == user.id).values(password_hash=password_hash)
    )
    audit_when_committed(session, "password_changed", user_id=user.id)
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
