"""The table of contents of `/api/v1`.

The routes themselves, and no routers in each other: `DispatchMiddleware` finds them in one look.
"""

from starlette.routing import BaseRoute

from app.accounts.router import api_keys, auth, users
from app.tasks.batch.router import router as task_batch
from app.tasks.router import repeatable as repeatable_tasks
from app.tasks.router import router as tasks
from app.tasks.transfer.router import router as task_transfer

ROUTES: list[BaseRoute] = [
    *users.routes,
    *auth.routes,
    *api_keys.routes,
    *repeatable_tasks.routes,
    *task_batch.routes,
    *task_transfer.routes,
    *tasks.routes,
]
