"""Room on each page of tasks for the new versions of those that change.

On pages that are full a changed task goes to another page. Both are then looked at by totals, which
are counted in an index as long as no task of a page has changed, and both are written whole to the
log after each checkpoint. Pages that are there already stay as they are.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE tasks SET (fillfactor = 85)")


def downgrade() -> None:
    op.execute("ALTER TABLE tasks RESET (fillfactor)")
