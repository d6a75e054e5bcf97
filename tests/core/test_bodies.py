"""Bodies that are not JSON, too large, of another type, or not even whole."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from app.core.errors import MalformedJSON
from app.core.routing import StrictRequest
from tests.support import Account, assert_error

TWO_MEBIBYTES = 2 * 1024 * 1024
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"title": "x"',
        b'{"title": "x"} trailing',
        b"{'title': 'x'}",
        b'{"title": "x",}',
        b'{"title": NaN}',
        b'{"title": "x", "description": Infinity}',
        b'{"title": "x", "a": -Infinity}',
        b'{"title": "\\ud800"}',
        b'{"title": "\\udc00\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"title": "\xff\xfe"}',
        b'{"title": "\xed\xa0\x80"}',
        '{"title": "x"}'.encode("utf-16"),
        b"\xef\xbb\xbf" + b'{"title": "x"}',
        b"[" * 100_000,
        b'{"title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"\x00",
        b'{"title": "a\x00b"}',
    ],
)
async def test_what_is_not_strict_json_is_malformed(alice: Account, body: bytes) -> None:
    response = await alice.client.post("/api/v1/tasks", content=body, headers=JSON)

    assert_error(response, 400, "malformed_json", fields={"body": "invalid"})


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ('{"title": "a", "title": "b"}', {"body.title": "duplicate"}),
        ('{"title": "a", "priority": "low", "title": "b"}', {"body.title": "duplicate"}),
        ('{"title": "a", "titl\\u0065": "b"}', {"body.title": "duplicate"}),
        ('{"title": {"a": [{"b": 1, "b": 2}]}}', {"body.title.a[0].b": "duplicate"}),
    ],
)
async def test_a_field_given_twice_is_named(
    alice: Account, body: str, fields: dict[str, str]
) -> None:
    response = await alice.client.post("/api/v1/tasks", content=body, headers=JSON)

    assert_error(response, 400, "validation_failed", fields=fields)


async def test_numbers_of_any_size_do_no_harm(alice: Account) -> None:
    for number in ("1e400", "-1e400", "9" * 5000, "1" + "0" * 300 + ".5"):
        response = await alice.client.post(
            "/api/v1/tasks", content=f'{{"title": {number}}}', headers=JSON
        )
        assert response.status_code == 400
        assert response.json()["code"] in {"validation_failed", "malformed_json"}


async def test_a_missing_body_is_named(alice: Account) -> None:
    for headers in ({}, JSON):
        response = await alice.client.post("/api/v1/tasks", headers=headers)
        assert_error(response, 400, "validation_failed", fields={"body": "missing"})


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/merge-patch+json",
        "application/problem+json",
        "application/jsonx",
        "json",
    ],
)
async def test_a_body_of_another_type_is_refused(alice: Account, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await alice.client.post("/api/v1/tasks", content=b'{"title": "x"}', headers=headers)

    code = "missing" if content_type is None else "invalid"
    assert_error(response, 415, "unsupported_media_type", fields={"header.content-type": code})
    assert response.json()["errors"][0]["message"] == "Input should be application/json"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_parameters_and_case_of_the_content_type_do_not_matter(
    alice: Account, content_type: str
) -> None:
    response = await alice.client.post(
        "/api/v1/tasks", content=b'{"title": "x"}', headers={"Content-Type": content_type}
    )

    assert response.status_code == 201


async def test_a_compressed_body_is_refused(alice: Account) -> None:
    response = await alice.client.post(
        "/api/v1/tasks", content=b'{"title": "x"}', headers=JSON | {"Content-Encoding": "gzip"}
    )

    fields = {"header.content-encoding": "invalid"}
    assert_error(response, 415, "unsupported_media_type", fields=fields)


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ([("Content-Type", "application/json"), ("Content-Type", "text/plain")], "type"),
        ([("Content-Type", "application/json;charset=utf-8"), ("Content-Type", "a/b")], "type"),
        (
            [*JSON.items(), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")],
            "encoding",
        ),
    ],
)
async def test_a_body_of_two_kinds_is_refused(
    alice: Account, headers: list[tuple[str, str]], part: str
) -> None:
    response = await alice.client.post("/api/v1/tasks", content=b'{"title": "x"}', headers=headers)

    fields = {f"header.content-{part}": "invalid"}
    assert_error(response, 415, "unsupported_media_type", fields=fields)


async def test_a_body_behind_an_upgrade_header_is_a_body_and_no_second_request(
    alice: Account,
) -> None:
    address = urlsplit(str(alice.client.base_url))
    body = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        b"Authorization: Bearer " + alice.token.encode() + b"\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    )
    await writer.drain()
    writer.write(body)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    writer.write_eof()
    rest = await reader.read()
    assert b"malformed_json" in rest
    assert b"HTTP/1.1" not in rest
    writer.close()
    await writer.wait_closed()


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536):
        yield b" " * 65_536


async def test_two_mebibytes_are_too_large_with_and_without_content_length(
    alice: Account,
) -> None:
    sized = await alice.client.post("/api/v1/tasks", content=b" " * TWO_MEBIBYTES, headers=JSON)
    assert_error(sized, 413, "payload_too_large")
    streamed = await alice.client.post("/api/v1/tasks", content=chunks(TWO_MEBIBYTES), headers=JSON)
    assert_error(streamed, 413, "payload_too_large")


async def test_a_body_of_just_one_mebibyte_is_read(alice: Account) -> None:
    for padding, status in ((1024 * 1024, 201), (1024 * 1024 + 1, 413)):
        body = json.dumps({"title": "x"}).encode().ljust(padding)
        response = await alice.client.post("/api/v1/tasks", content=body, headers=JSON)
        assert response.status_code == status


async def test_a_client_that_leaves_in_the_middle_of_a_body_does_no_harm(
    alice: Account,
) -> None:
    address = urlsplit(str(alice.client.base_url))
    for _ in range(20):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + alice.token.encode() + b"\r\nContent-Length: 500\r\n\r\n{"
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    assert (await alice.create_task())["version"] == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/tasks"),
        ("GET", "/api/v1/users/me"),
        ("DELETE", "/api/v1/tasks/{id}"),
        ("POST", "/api/v1/tasks/{id}/restore"),
    ],
)
@pytest.mark.parametrize("content", [b'{"permanent": true}', b"x"])
async def test_a_body_where_none_is_taken_is_refused(
    alice: Account, method: str, path: str, content: bytes
) -> None:
    task = await alice.create_task()
    path = path.format(id=task["id"])

    response = await alice.client.request(method, path, content=content, headers=JSON)

    assert_error(response, 400, "validation_failed", fields={"body": "unknown"})
    assert (await alice.client.get(f"/api/v1/tasks/{task['id']}")).status_code == 200
    # That there might be one is nothing bad.
    again = await alice.client.request(method, path, headers=JSON)
    assert again.status_code in {200, 404}


async def test_a_body_of_very_many_unknown_fields_is_refused_as_a_whole(alice: Account) -> None:
    body = {f"field{number}": 1 for number in range(20_000)}
    response = await alice.client.post("/api/v1/tasks", json=body)
    assert_error(response, 400, "validation_failed", fields={"body": "too_long"})


async def test_a_large_body_is_read_as_strictly_as_a_small_one(alice: Account) -> None:
    metadata = ", ".join(f'"k{number}": 1' for number in range(9_000))
    for member, code in (("", "too_long"), (', "k1": 2', "duplicate")):
        content = f'{{"title": "x", "metadata": {{{metadata}{member}}}}}'
        response = await alice.client.post(
            "/api/v1/tasks", content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == code


async def test_a_query_that_is_not_utf_8_is_refused_by_name(alice: Account) -> None:
    response = await alice.client.get("/api/v1/tasks?tag=ok&external_id=%ff")
    assert_error(response, 400, "validation_failed", fields={"query.external_id": "invalid"})


async def test_a_large_body_that_is_refused_is_forgotten_at_once() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"title": "' + b"x" * 100_000}

    request = StrictRequest({"type": "http", "headers": []}, receive)
    remembered = weakref.ref(request)
    gc.disable()
    try:
        # Garbage is collected by the number of objects, however large they are.
        with pytest.raises(MalformedJSON):
            await request.json()
        del request
        assert remembered() is None
    finally:
        gc.enable()
