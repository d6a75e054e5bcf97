"""What can go wrong with tasks."""

from app.core.errors import APIError


class TaskNotFound(APIError):
    """There is no such task, or it is another's: the two cannot be told apart."""

    status = 404
    code = "task_not_found"
    message = "Task not found"
