"""Bringing a database's schema up to date."""

from alembic.config import Config

from alembic import command
from app.core.settings import CHECKOUT


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration for this database, its secrets in no file and no log."""
    config = Config(CHECKOUT / "alembic.ini")
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Upgrade to the newest schema. Safe to run from several nodes at once: they take turns.

    Needs a thread without a running event loop.
    """
    command.upgrade(alembic_config(database_url), "head")
