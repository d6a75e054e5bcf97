"""Users, and the credentials that speak for them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, LargeBinary, String, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, PrimaryKey

USERNAME_MAX_LENGTH = 80
EMAIL_MAX_LENGTH = 254


class CredentialKind(StrEnum):
    LOGIN = "login"
    API_KEY = "api_key"


class User(Base):
    __tablename__ = "users"

    id: Mapped[PrimaryKey]
    username: Mapped[str] = mapped_column(String(USERNAME_MAX_LENGTH))
    email: Mapped[str] = mapped_column(String(EMAIL_MAX_LENGTH))
    # `email` after NFKC and case folding. The database's own lower() depends on its locale.
    email_key: Mapped[str]
    password_hash: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[CreatedAt]

    # Usernames are ASCII, which lower() folds alike in every locale. PostgreSQL checks indexes in
    # the order in which they were made: if both are taken, the username is the one that is named.
    __table_args__ = (
        Index("uq_users_username", func.lower(username), unique=True),
        Index("uq_users_email_key", "email_key", unique=True),
    )


class Credential(Base):
    """A login or an API key. The token itself is stored nowhere, only its keyed digest."""

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
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
