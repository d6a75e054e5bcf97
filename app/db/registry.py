"""Every model in one place: what Alembic compares with the database."""

from app.accounts import models as accounts
from app.db.base import Base
from app.tasks import models as tasks

metadata = Base.metadata

__all__ = ["accounts", "metadata", "tasks"]
