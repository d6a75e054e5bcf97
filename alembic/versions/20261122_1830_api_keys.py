"""API keys: a name and a prefix to tell them by, and when a credential was last used."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Turkic languages have another small letter for I.
    op.drop_index("uq_users_username", table_name="users")
    op.drop_index("uq_users_email_key", table_name="users")
    folded = sa.literal_column('lower(username COLLATE "C")')
    op.create_index("uq_users_username", "users", [folded], unique=True)
    op.create_index("uq_users_email_key", "users", ["email_key"], unique=True)
    op.add_column("credentials", sa.Column("name", sa.String(length=100), nullable=True))
    op.add_column("credentials", sa.Column("prefix", sa.String(length=16), nullable=True))
    op.add_column(
        "credentials", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_check_constraint(
        op.f("ck_credentials_named_if_api_key"),
        "credentials",
        "(kind = 'api_key') = (name IS NOT NULL AND prefix IS NOT NULL)",
    )


def downgrade() -> None:
    # Without a name a key cannot be told from a login any more.
    op.execute("DELETE FROM credentials WHERE kind = 'api_key'")
    op.drop_constraint(op.f("ck_credentials_named_if_api_key"), "credentials", type_="check")
    op.drop_column("credentials", "last_used_at")
    op.drop_column("credentials", "prefix")
    op.drop_column("credentials", "name")
    op.drop_index("uq_users_username", table_name="users")
    op.drop_index("uq_users_email_key", table_name="users")
    op.create_index(
        "uq_users_username", "users", [sa.literal_column("lower(username)")], unique=True
    )
    op.create_index("uq_users_email_key", "users", ["email_key"], unique=True)
