"""Bringing a database's schema up to date."""

from typing import TYPE_CHECKING

from app.core.settings import CHECKOUT, Pooler

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic takes a tenth of a second to import, which only those pay who migrate.


def alembic_config(database_url: str, pooler: Pooler = "none") -> "Config":
    """Alembic's configuration for this database, its secrets in no file and no log."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config(CHECKOUT / "alembic.ini")
    config.attributes["database_url"] = database_url
    config.attributes["pooler"] = pooler
    return config


def migrate(database_url: str, pooler: Pooler = "none") -> None:
    """Upgrade to the newest schema. Safe to run from several nodes at once: they take turns.

    Needs a thread without a running event loop.
    """
    from alembic import command  # noqa: PLC0415 - see above

    command.upgrade(alembic_config(database_url, pooler), "head")
