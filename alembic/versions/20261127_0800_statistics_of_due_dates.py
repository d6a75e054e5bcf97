"""Statistics of what the indexes by due date are made of.

Without them PostgreSQL takes any range of due dates for a third of the table, and so walks through
all of an owner's tasks to find the few that are due then.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NEVER = {"ascending": "infinity", "descending": "-infinity"}


def upgrade() -> None:
    for order, never in NEVER.items():
        op.execute(
            f"CREATE STATISTICS st_tasks_due_{order}"
            f" ON (COALESCE(due, '{never}'::timestamp with time zone)) FROM tasks"
        )
    op.create_check_constraint(
        op.f("ck_tasks_updated_at_from_created_at"), "tasks", "updated_at >= created_at"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_tasks_updated_at_from_created_at"), "tasks", type_="check")
    for order in NEVER:
        op.execute(f"DROP STATISTICS st_tasks_due_{order}")
