"""What a user of the generated client does, from the registration to the trash."""

import os
import sys
import uuid
from http import HTTPStatus
from typing import TypeVar

from taskflow_client import AuthenticatedClient, Client
from taskflow_client.api.accounts import create_api_key, create_token, create_user
from taskflow_client.api.tasks import (
    create_task,
    delete_task,
    export_tasks,
    list_tasks,
    list_trash,
    put_task,
    read_task,
    restore_task,
    run_batch,
    update_task,
)
from taskflow_client.models import (
    ApiKeyCreate,
    ApiKeyResponse,
    BatchResponse,
    CreateOperation,
    DeleteOperation,
    ErrorResponse,
    ListTasksSort,
    PasswordGrant,
    Scope,
    TaskBatch,
    TaskCreate,
    TaskListResponse,
    TaskPriority,
    TaskRead,
    TaskReplace,
    TaskResponse,
    TaskStatus,
    TaskUpdate,
    TokenResponse,
    TrashListResponse,
    UpdateOperation,
    UserCreate,
    UserResponse,
)
from taskflow_client.types import Response

Wanted = TypeVar("Wanted")
URL = os.environ["TASKFLOW_URL"]
PASSWORD = "correct horse battery staple"


def expect(kind: type[Wanted], answer: object) -> Wanted:
    assert isinstance(answer, kind), answer
    return answer


def refused(answer: Response[ErrorResponse | Wanted], status: HTTPStatus) -> ErrorResponse:
    assert answer.status_code == status, answer
    return expect(ErrorResponse, answer.parsed)


def log_in(name: str) -> AuthenticatedClient:
    """Register, log in, and go on with an API key."""
    anonymous = Client(URL)
    registration = UserCreate(username=name, email=f"{name}@example.com", password=PASSWORD)
    user = expect(UserResponse, create_user.sync(client=anonymous, body=registration))
    assert user.data.username == name
    error = refused(
        create_user.sync_detailed(client=anonymous, body=registration), HTTPStatus.CONFLICT
    )
    assert error.code == "username_taken", error

    grant = PasswordGrant(grant_type="password", username=name, password=PASSWORD)
    token = expect(TokenResponse, create_token.sync(client=anonymous, body=grant))
    person = AuthenticatedClient(URL, token.access_token)
    asked = ApiKeyCreate(name="story", scopes=[Scope.TASKSREAD, Scope.TASKSWRITE])
    key = expect(ApiKeyResponse, create_api_key.sync(client=person, body=asked))
    return AuthenticatedClient(URL, key.data.key)


def create(client: AuthenticatedClient) -> tuple[TaskRead, str]:
    """A task, whose creation is repeated safely, and its ETag."""
    body = TaskCreate(title="Water the plants", priority=TaskPriority.HIGH, tags=["garden"])
    again = str(uuid.uuid4())
    first, second = (
        create_task.sync_detailed(client=client, body=body, idempotency_key=again) for _ in range(2)
    )
    task = expect(TaskResponse, first.parsed).data
    assert expect(TaskResponse, second.parsed).data.id == task.id
    assert second.headers["Idempotent-Replayed"] == "true"
    return task, first.headers["ETag"]


NEWEST = ListTasksSort.CREATED_AT_DESC


def page(client: AuthenticatedClient) -> list[str]:
    titles: list[str] = []
    listed = expect(TaskListResponse, list_tasks.sync(client=client, per_page=2, sort=NEWEST)).data
    while True:
        titles.extend(task.title for task in listed.tasks)
        if listed.next_cursor is None:
            return titles
        listed = expect(
            TaskListResponse,
            list_tasks.sync(client=client, per_page=2, sort=NEWEST, cursor=listed.next_cursor),
        ).data


def main() -> None:
    client = log_in(f"python-{uuid.uuid4().hex[:12]}")
    task, etag = create(client)
    for number in range(4):
        expect(
            TaskResponse,
            create_task.sync(client=client, body=TaskCreate(title=f"Task {number}")),
        )
    assert page(client) == ["Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"]

    change = TaskUpdate(status=TaskStatus.COMPLETED)
    changed = update_task.sync(task.id, client=client, body=change, if_match=etag)
    done = expect(TaskResponse, changed).data
    assert done.version == 2
    assert done.completed_at is not None
    late = TaskUpdate(title="Too late")
    error = refused(
        update_task.sync_detailed(task.id, client=client, body=late, if_match=etag),
        HTTPStatus.PRECONDITION_FAILED,
    )
    assert error.code == "version_conflict", error

    error = refused(
        create_task.sync_detailed(client=client, body=TaskCreate(title="")),
        HTTPStatus.BAD_REQUEST,
    )
    assert error.errors, error
    assert [(it.field, it.code.value) for it in error.errors] == [("body.title", "too_short")]

    operations: list[CreateOperation | DeleteOperation | UpdateOperation] = [
        CreateOperation(op="create", task=TaskCreate(title="From a batch")),
        UpdateOperation(op="update", id=task.id, changes=TaskUpdate(title="Watered"), version=2),
        DeleteOperation(op="delete", id=task.id),
    ]
    batch = expect(
        BatchResponse, run_batch.sync(client=client, body=TaskBatch(operations=operations))
    )
    assert [result.status for result in batch.data.results] == [201, 200, 200]

    trash = expect(TrashListResponse, list_trash.sync(client=client)).data
    assert [it.title for it in trash.tasks] == ["Watered"]
    assert read_task.sync_detailed(task.id, client=client).status_code == HTTPStatus.NOT_FOUND
    restored = expect(TaskResponse, restore_task.sync(task.id, client=client)).data
    assert restored.title == "Watered"
    gone = delete_task.sync_detailed(task.id, client=client, permanent=True)
    assert gone.status_code == HTTPStatus.OK
    assert expect(TrashListResponse, list_trash.sync(client=client)).data.tasks == []

    wanted = TaskReplace(title="Call Ana")
    made = put_task.sync_detailed("crm/7", client=client, body=wanted)
    assert made.status_code == HTTPStatus.CREATED
    kept = put_task.sync_detailed("crm/7", client=client, body=wanted)
    assert kept.status_code == HTTPStatus.OK
    assert expect(TaskResponse, kept.parsed).data == expect(TaskResponse, made.parsed).data
    exported = expect(list, export_tasks.sync(client=client, external_id="crm/7"))
    assert [task.title for task in exported] == ["Call Ana"]
    sys.stdout.write("The story ends well.\n")


main()
