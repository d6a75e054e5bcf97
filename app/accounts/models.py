"""Users, and the credentials that speak for them."""

import unicodedata
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, PrimaryKey

USERNAME_MAX_LENGTH = 80
EMAIL_MAX_LENGTH = 254
KEY_NAME_MAX_LENGTH = 100
KEY_PREFIX_MAX_LENGTH = 16


class Scope(StrEnum):
    """What a credential may do."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    ACCOUNT_READ = "account:read"
    ACCOUNT_WRITE = "account:write"


class CredentialKind(StrEnum):
    LOGIN = "login"
    API_KEY = "api_key"


def email_key(email: str) -> str:
    """What makes an address unique: NFKC, with its case folded."""
    folded = unicodedata.normalize("NFKC", email).casefold()
    return unicodedata.normalize("NFKC", folded)


def login_key(name: str) -> str | None:
    """What a username or an address is looked up and counted by; None for what nobody is called.

    Nothing long is folded: normalising a name of marks alone takes time by its square.
    """
    if len(name) > EMAIL_MAX_LENGTH or "\x00" in name:
        return None
    if "@" in name:
        return email_key(name)
    return name.lower() if name.isascii() else None


class User(Base):
    __tablename__ = "users"

    id: Mapped[PrimaryKey]
    username: Mapped[str] = mapped_column(String(USERNAME_MAX_LENGTH))
    email: Mapped[str] = mapped_column(String(EMAIL_MAX_LENGTH))
    # `email_key(email)`. The database's own lower() depends on its locale.
    email_key: Mapped[str]
    password_hash: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[CreatedAt]

    # Usernames are ASCII, which lower() folds alike in every locale but the Turkic ones. PostgreSQL
    # checks indexes in the order in which they were made: if both are taken, the username is named.
    __table_args__ = (
        Index("uq_users_username", func.lower(username.collate("C")), unique=True),
        Index("uq_users_email_key", "email_key", unique=True),
    )


class Credential(Base):
    """A login or an API key. The token itself is stored nowhere, only its keyed digest.

    Only an API key has a name, and keeps the start of its token for people to tell it by.
    """

    __tablename__ = "credentials"

    id: Mapped[PrimaryKey]
    user_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[CredentialKind] = mapped_column(
        Enum(
            CredentialKind,
            name="credential_kind",
            values_callable=lambda kinds: [kind.value for kind in kinds],
        )
    )
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String))
    name: Mapped[str | None] = mapped_column(String(KEY_NAME_MAX_LENGTH))
    prefix: Mapped[str | None] = mapped_column(String(KEY_PREFIX_MAX_LENGTH))
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "(kind = 'api_key') = (name IS NOT NULL AND prefix IS NOT NULL)",
            name="named_if_api_key",
        ),
    )
