"""The examples of the document are requests that the service answers with what is asked for."""

from typing import Any
from urllib.parse import quote

import httpx

from app.main import create_app
from tests.conftest import NewDatabase
from tests.support import http_client, served, service_settings

# Who follows the document's examples from the start meets their state, if they come in this order.
STORY = [
    "read_liveness",
    "read_readiness",
    "create_user",
    "create_token",
    "read_me",
    "update_me",
    *["create_api_key"] * 3,
    "list_api_keys",
    "delete_api_key",
    "create_task",
    *["another_task"] * 7,
    "another_version",
    "another_version_still",
    "run_batch",
    "list_tasks",
    "read_task_stats",
    "export_tasks",
    "read_task",
    "update_task",
    "put_task",
    "delete_task",
    "list_trash",
    "restore_task",
    "revoke_token",
    "change_password",
    "close_account",
]


async def test_every_example_of_a_request_works(new_database: NewDatabase) -> None:
    app = create_app(service_settings(new_database()))
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }
    assert operations.keys() <= set(STORY)

    with served(app) as url:
        async with http_client(url) as client:
            for step in STORY:
                if step == "another_task":
                    response = await client.post("/api/v1/tasks", json={"title": "Another"})
                elif step.startswith("another_version"):
                    response = await client.patch("/api/v1/tasks/7", json={"title": step})
                else:
                    response = await client.send(request(client, *operations[step]))
                assert response.is_success, (step, response.text)
                if step == "create_token":
                    token = response.json()["access_token"]
                    client.headers["Authorization"] = f"Bearer {token}"


def request(
    client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any]
) -> httpx.Request:
    """The request with all examples but of a cursor, which is signed, and of conditions."""
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        if parameter["in"] == "path":
            value = parameter["schema"]["examples"][0]
            path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
        elif parameter["in"] == "query" and name != "cursor":
            value = parameter["schema"]["examples"][0]
            query[name] = str(value).lower() if isinstance(value, bool) else value
    body: dict[str, Any] = {}
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        form = media_type == "application/x-www-form-urlencoded"
        body = {"data" if form else "json": content["example"]}
    return client.build_request(method, path, params=query, **body)
