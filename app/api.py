"""The table of contents of `/api/v1`."""

from fastapi import APIRouter

from app.accounts.router import api_keys, auth, users
from app.tasks.batch.router import router as task_batch
from app.tasks.export import router as task_export
from app.tasks.router import repeatable as repeatable_tasks
from app.tasks.router import router as tasks

router = APIRouter(prefix="/api/v1")
router.include_router(users)
router.include_router(auth)
router.include_router(api_keys)
router.include_router(repeatable_tasks)
router.include_router(task_batch)
# Before the tasks themselves, whose path takes any name for an id.
router.include_router(task_export)
router.include_router(tasks)
