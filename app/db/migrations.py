"""Bringing a database's schema up to date."""

from typing import TYPE_CHECKING

from app.core.settings import CHECKOUT, Pooler

if TYPE_CHECKING:
    from alembic.config import Config

CONFIGURATION = CHECKOUT / "alembic.ini"

# Alembic takes a tenth of a second to import, which only those pay who migrate.


class MigrationsMissingError(Exception):
    """The migrations, which are looked for beside the package, are not there."""


def alembic_config(database_url: str, pooler: Pooler = "none") -> "Config":
    """Alembic's configuration for this database, its secrets in no file and no log."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config(CONFIGURATION)
    config.attributes["database_url"] = database_url
    config.attributes["pooler"] = pooler
    return config


def migrate(database_url: str, pooler: Pooler = "none") -> None:
    """Upgrade to the newest schema. Safe to run from several nodes at once: they take turns.

    Needs a thread without a running event loop. Raises `MigrationsMissingError`.
    """
    from alembic import command  # noqa: PLC0415 - see above

    if not CONFIGURATION.is_file():
        raise MigrationsMissingError
    command.upgrade(alembic_config(database_url, pooler), "head")
