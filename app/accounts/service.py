"""What can be done with accounts: the statements behind the routers and the command line."""

import unicodedata
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import String, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.credentials import (
    LOGIN_PREFIX,
    SCOPES,
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
from app.accounts.schemas import PasswordGrant, UserCreate
from app.core.errors import ValidationFailed
from app.core.responses import FieldError
from app.core.security import PasswordHasher, new_token, token_digest
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
    try:
        return (await session.scalars(statement)).one()
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
                unchanged = (User.id == user.id) & (User.password_hash == user.password_hash)
                await session.execute(update(User).where(unchanged).values(password_hash=rehashed))
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
        .where(User.id == user.id, User.is_active, User.password_hash == user.password_hash)
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
    session: AsyncSession, user: User, *, kinds: list[CredentialKind]
) -> None:
    """End the user's credentials of these kinds; holds on every worker with the next statement."""
    statement = update(Credential).where(
        Credential.user_id == user.id,
        Credential.kind.in_(kinds),
        Credential.revoked_at.is_(None),
    )
    await session.execute(statement.values(revoked_at=func.now()))
