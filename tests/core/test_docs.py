"""The OpenAPI document and its page."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    body: dict[str, Any] = (await client.get("/openapi.json")).json()
    return body


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    }


async def test_the_root_leads_to_the_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert response.status_code == 307
    assert response.headers["Location"] == "/docs"


async def test_the_docs_load_nothing_from_another_host_and_run_nothing_inline(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    sources = [directive.split()[1:] for directive in policy.split("; ")]
    assert policy.startswith("default-src 'none'; ")
    assert all(source in (["'none'"], ["'self'"]) for source in sources)

    loaded: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            loaded.extend(value or "" for name, value in attrs if name in {"src", "href"})
            assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
            assert tag != "script" or dict(attrs).get("src")

    Links().feed(page.text)
    assert len(loaded) == 5
    for path in loaded:
        assert path.startswith("/docs/assets/")
        assert (await client.get(path)).status_code == 200
    styles = (await client.get("/docs/assets/swagger-ui.css")).text
    images = re.findall(r"url\(([^)]*)\)", styles)
    assert len(images) > 10
    for image in images:
        assert (await client.get(f"/docs/assets/{image}")).headers["Content-Type"] in {
            "image/svg+xml",
            "image/png",
            "image/jpeg",
        }


@pytest.mark.parametrize("path", ["/docs", "/docs/assets/swagger-ui-bundle.js", "/openapi.json"])
async def test_the_page_and_the_document_are_compressed_and_sent_once(
    client: httpx.AsyncClient, path: str
) -> None:
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    packed = await client.get(path, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.content == packed.content
    assert packed.headers["Cache-Control"] == "private, no-cache"
    again = await client.get(path, headers={"If-None-Match": plain.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == plain.headers["ETag"]
    other = await client.get(path, headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip; q=0.001, identity", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, br", None),
        ("GZip ; Q=0", None),
        ("br", None),
    ],
)
async def test_a_coding_that_the_client_refuses_is_not_sent(
    client: httpx.AsyncClient, accepted: str, coding: str | None
) -> None:
    response = await client.get("/openapi.json", headers={"Accept-Encoding": accepted})

    assert response.headers.get("Content-Encoding") == coding
    assert response.json()["openapi"]


async def test_operations_are_named_verb_noun_and_described(document: dict[str, Any]) -> None:
    found = operations(document)

    assert set(found) == {
        "read_liveness",
        "read_readiness",
        "create_user",
        "read_me",
        "update_me",
        "change_password",
        "close_account",
        "revoke_token",
        "create_token",
        "create_api_key",
        "list_api_keys",
        "delete_api_key",
        "create_task",
        "list_tasks",
        "read_task_stats",
        "list_trash",
        "put_task",
        "restore_task",
        "read_task",
        "update_task",
        "delete_task",
        "run_batch",
        "export_tasks",
    }
    for name, operation in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name


async def test_the_document_has_no_422_of_fastapis_own(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        if answer := operation["responses"].get("422"):
            assert answer == {"$ref": "#/components/responses/IdempotencyKeyReused"}, name
    assert not {name for name in document["components"]["schemas"] if "HTTPValidation" in name}


async def test_every_secured_operation_documents_its_scope_and_401_and_403(
    document: dict[str, Any],
) -> None:
    secured = {
        name: operation for name, operation in operations(document).items() if operation["security"]
    }
    assert len(secured) == 18
    for name, operation in secured.items():
        login, key = operation["security"]
        assert len(login["Login"]) == 1, name
        assert key == {"ApiKey": []}, name
        assert {"401", "403"} <= operation["responses"].keys(), name


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from schemas(item)


async def test_every_parameter_and_every_property_is_described(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]
    for name, operation in operations(document).items():
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
    for schema in schemas(document):
        for name, found in schema["properties"].items():
            target = described[found["$ref"].rpartition("/")[2]] if "$ref" in found else found
            assert found.get("description") or target["description"], (schema, name)


async def test_errors_that_no_operation_need_name_follow_from_its_route(
    document: dict[str, Any],
) -> None:
    for name, operation in operations(document).items():
        answers = operation["responses"].keys()
        assert "500" in answers, name
        if operation["security"]:
            assert {"400", "401", "403", "429", "500", "503"} <= answers, name
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= answers, name


async def test_each_shared_response_tells_its_headers(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]

    assert responses["Unauthenticated"]["headers"].keys() >= {"WWW-Authenticate", "X-Request-ID"}
    assert responses["RateLimited"]["headers"].keys() >= {"Retry-After", "RateLimit"}


async def test_each_503_tells_when_to_come_back(document: dict[str, Any]) -> None:
    components = document["components"]
    for name, operation in operations(document).items():
        if (answer := operation["responses"].get("503")) is None:
            continue
        if "$ref" in answer:
            answer = components["responses"][answer["$ref"].rpartition("/")[2]]
        header = answer["headers"]["Retry-After"]
        assert components["headers"][header["$ref"].rpartition("/")[2]]["required"], name


async def test_query_parameters_are_free_of_null(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for parameter in operation.get("parameters", []):
            assert "anyOf" not in parameter["schema"], (name, parameter["name"])


async def test_writes_that_are_safe_to_repeat_document_the_key_and_its_errors(
    document: dict[str, Any],
) -> None:
    repeatable = {
        name: operation
        for name, operation in operations(document).items()
        if "Idempotency-Key" in {one["name"] for one in operation.get("parameters", [])}
    }
    assert set(repeatable) == {"create_task", "run_batch"}
    for name, operation in repeatable.items():
        conflicts = operation["responses"]["409"]["$ref"]
        assert "IdempotencyInFlight" in conflicts, name
        assert "422" in operation["responses"], name


async def test_the_operations_of_a_batch_are_told_apart_by_op(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    operation = schemas["TaskBatch"]["properties"]["operations"]["items"]

    models = [schemas[member["$ref"].rpartition("/")[2]] for member in operation["oneOf"]]
    assert [it["properties"]["op"]["const"] for it in models] == ["create", "update", "delete"]
    assert all("op" in it["required"] for it in models)


async def test_every_code_of_an_error_stands_in_one_table(document: dict[str, Any]) -> None:
    table = document["info"]["description"].partition("All errors")[2]
    shared = document["components"]["responses"]
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            found = shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
            for code in found.get("content", {}).get("application/json", {}).get("examples", {}):
                assert f"| {status} | `{code}` | " in table, name
    assert "| 405 | `method_not_allowed` | " in table


async def test_examples_hold_null_where_a_patch_takes_something_away(
    document: dict[str, Any],
) -> None:
    patch = document["components"]["schemas"]["TaskUpdate"]

    assert patch["examples"] == [{"status": "completed", "due_at": None}]
    assert patch["properties"]["metadata"]["examples"] == [{"colour": None, "pot": {"size": 12}}]
