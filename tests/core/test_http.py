"""What holds for every response: the envelope, the headers, HEAD, 404, 405."""

import re

import httpx
import pytest

from tests.support import Account, assert_error


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api",
        "/api/v1",
        "/api/v2/tasks",
        "/api/v1/tasks/",
        "/api/v1/tasks/1/",
        "/api/v1/users/me/",
        "/health/",
        "/docs/",
        "/redoc",
        "//api/v1/tasks",
        "/api/v1/tasks/1/comments",
        "/docs/assets/nothing.js",
        "/docs/assets/..%2f..%2fsettings.py",
        "/%00",
        "/health%0A",
        "/api/v1/tasks%0A",
        "/" + "x" * 5000,
    ],
)
async def test_what_is_not_there_is_a_404_in_the_envelope(
    client: httpx.AsyncClient, path: str
) -> None:
    response = await client.get(path)

    assert_error(response, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/tasks", "GET, HEAD, POST"),
        ("POST", "/api/v1/tasks/1", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/api/v1/users", "POST"),
        ("HEAD", "/api/v1/users", "POST"),
        ("GET", "/api/v1/auth/token", "POST"),
        ("DELETE", "/api/v1/users/me", "GET, HEAD, PATCH"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/api/v1/tasks", "GET, HEAD, POST"),
        ("TRACE", "/api/v1/tasks", "GET, HEAD, POST"),
        ("PROPFIND", "/health/ready", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("POST", "/api/v1/tasks/7", "DELETE, GET, HEAD, PATCH"),
        # None of these is the id of a task.
        ("PATCH", "/api/v1/tasks/stats", "GET, HEAD"),
        ("DELETE", "/api/v1/tasks/trash", "GET, HEAD"),
        ("DELETE", "/api/v1/tasks/export", "GET, HEAD"),
        ("GET", "/api/v1/tasks/batch", "POST"),
    ],
)
async def test_allow_names_all_methods_of_a_path(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)

    assert response.headers["Allow"] == allowed
    assert response.status_code == 405
    if method != "HEAD":
        assert_error(response, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/openapi.json", "/docs", "/"])
async def test_head_works_wherever_get_does(client: httpx.AsyncClient, path: str) -> None:
    got = await client.get(path)
    head = await client.head(path)

    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers.get("Content-Type") == got.headers.get("Content-Type")
    assert head.headers.get("Content-Length") == got.headers.get("Content-Length")


async def test_the_connection_outlives_every_kind_of_answer(alice: Account) -> None:
    for method, path in (
        ("GET", "/nowhere"),
        ("PUT", "/health"),
        ("HEAD", "/api/v1/tasks"),
        ("GET", "/api/v1/tasks?page=0"),
        ("GET", "/api/v1/tasks"),
    ):
        response = await alice.client.request(method, path)
        assert response.headers.get("Connection", "keep-alive") != "close"


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
async def test_a_request_id_of_the_client_is_kept(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/nowhere", headers={"X-Request-ID": given})

    assert response.headers["X-Request-ID"] == given
    assert response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", "ü", '"quoted"', "a;b=c"])
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/nowhere", headers={b"X-Request-ID": given.encode()})

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"])
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


async def test_of_two_request_ids_the_first_counts(client: httpx.AsyncClient) -> None:
    headers = [("X-Request-ID", "not one"), ("X-Request-ID", "one")]
    response = await client.get("/nowhere", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"])

    response = await client.get("/nowhere", headers=[("X-Request-ID", "a"), headers[1]])
    assert response.headers["X-Request-ID"] == "a"


async def test_nothing_is_kept_in_caches(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/nowhere", "/api/v1/tasks"):
        response = await client.get(path)
        assert response.headers["Cache-Control"] == "no-store"


async def test_the_server_does_not_name_its_software(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")

    assert "server" not in response.headers
    assert "x-powered-by" not in response.headers


async def test_the_docs_files_answer_in_the_envelope_too(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/assets/start.js"):
        response = await client.get(path, headers={"Range": "bytes=abc"})
        assert response.status_code == 200
        response = await client.post(path)
        assert_error(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, HEAD"
