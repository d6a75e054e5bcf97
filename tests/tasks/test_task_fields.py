"""Tags, due dates, external ids and metadata: what is kept, and what is refused."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.tasks.schemas import TrashedTaskRead
from tests.support import Account, assert_error


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def sized(size: int) -> dict[str, str]:
    """Metadata of just so many bytes as compact UTF-8 JSON."""
    return {"é": "x" * (size - len('{"é":""}'.encode()))}


async def kept(account: Account, **fields: Any) -> dict[str, Any]:
    """The task as it is read after it was created with these fields."""
    task = await account.create_task(**fields)
    read: dict[str, Any] = (await account.client.get(f"/api/v1/tasks/{task['id']}")).json()["data"]
    assert read == task
    return task


async def test_tags_are_trimmed_and_keep_their_order(alice: Account) -> None:
    tags = [" zebra", "Apfel\u3000", "apfel", "日本", "a,b", "🌱" * 50, '"\\{}']
    task = await kept(alice, tags=tags)

    assert task["tags"] == ["zebra", "Apfel", "apfel", "日本", "a,b", "🌱" * 50, '"\\{}']
    assert (await kept(alice, tags=[str(number) for number in range(20)]))["tags"][19] == "19"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2026-12-01T09:30:00Z", "2026-12-01T09:30:00.000000Z"),
        ("2026-12-01t09:30:00.1z", "2026-12-01T09:30:00.100000Z"),
        ("2026-12-01T09:30:00.123456789+05:30", "2026-12-01T04:00:00.123456Z"),
        ("2026-12-01T00:00:00-00:00", "2026-12-01T00:00:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
async def test_an_instant_is_read_in_utc_with_microseconds(
    alice: Account, sent: str, read: str
) -> None:
    assert (await kept(alice, due_at=sent))["due_at"] == read


@pytest.mark.parametrize("day", ["2026-12-01", "2024-02-29", "0001-01-01", "9999-12-31"])
async def test_a_date_is_read_as_sent(alice: Account, day: str) -> None:
    assert (await kept(alice, due_on=day))["due_on"] == day


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": None, "": [1, -2.5, True, {"b": [None]}], "ключ": "\u2028🌱\x1f\\"},
        {"numbers": [0, 2**70, -(2**63), 1.5e-10, 10**300]},
        nested(32),
        {"a": [nested(30)]},
        sized(16_384),
    ],
    ids=["kinds", "numbers", "levels", "levels of a list", "bytes"],
)
async def test_metadata_is_kept(alice: Account, metadata: dict[str, Any]) -> None:
    assert (await kept(alice, metadata=metadata))["metadata"] == metadata


REFUSED: dict[str, tuple[Any, dict[str, str]]] = {
    "tags null": ({"tags": None}, {"body.tags": "wrong_type"}),
    "tags a string": ({"tags": "a"}, {"body.tags": "wrong_type"}),
    "a tag blank": ({"tags": ["a", " \u200b"]}, {"body.tags[1]": "too_short"}),
    "a tag too long": ({"tags": ["a" * 51]}, {"body.tags[0]": "too_long"}),
    "a tag no string": ({"tags": ["a", 1]}, {"body.tags[1]": "wrong_type"}),
    "a tag with NUL": ({"tags": ["a\x00"]}, {"body.tags[0]": "invalid"}),
    "a tag twice": ({"tags": ["a", "b", " a"]}, {"body.tags": "duplicate"}),
    "too many tags": ({"tags": [str(n) for n in range(21)]}, {"body.tags": "too_long"}),
    "due_at naive": ({"due_at": "2026-12-01T09:30:00"}, {"body.due_at": "invalid"}),
    "due_at a date": ({"due_at": "2026-12-01"}, {"body.due_at": "invalid"}),
    "due_at a number": ({"due_at": 1700000000}, {"body.due_at": "wrong_type"}),
    "due_at digits": ({"due_at": "1700000000"}, {"body.due_at": "invalid"}),
    "due_at with a space": ({"due_at": "2026-12-01 09:30:00Z"}, {"body.due_at": "invalid"}),
    "due_at with a newline": ({"due_at": "2026-12-01T09:30:00Z\n"}, {"body.due_at": "invalid"}),
    "due_at basic form": ({"due_at": "20261201T093000Z"}, {"body.due_at": "invalid"}),
    "due_at at 24 h": ({"due_at": "2026-12-01T24:00:00Z"}, {"body.due_at": "invalid"}),
    "due_at no such day": ({"due_at": "2026-02-30T00:00:00Z"}, {"body.due_at": "invalid"}),
    "due_at offset of sixty minutes": (
        {"due_at": "2026-12-01T00:00:00+05:60"},
        {"body.due_at": "invalid"},
    ),
    "due_at offset of a day": ({"due_at": "2026-12-01T00:00:00+24:00"}, {"body.due_at": "invalid"}),
    "due_at before year 1": (
        {"due_at": "0001-01-01T00:00:00+00:01"},
        {"body.due_at": "out_of_range"},
    ),
    "due_at after year 9999": (
        {"due_at": "9999-12-31T23:59:59-00:01"},
        {"body.due_at": "out_of_range"},
    ),
    "due_on an instant": ({"due_on": "2026-12-01T00:00:00Z"}, {"body.due_on": "invalid"}),
    "due_on no such day": ({"due_on": "2026-02-29"}, {"body.due_on": "invalid"}),
    "due_on basic form": ({"due_on": "20261201"}, {"body.due_on": "invalid"}),
    "due_on a week": ({"due_on": "2026-W49-2"}, {"body.due_on": "invalid"}),
    "due_on a number": ({"due_on": 20261201}, {"body.due_on": "wrong_type"}),
    "due_on Arabic digits": ({"due_on": "\u0662026-12-01"}, {"body.due_on": "invalid"}),
    "due in two ways": (
        {"due_on": "2026-12-01", "due_at": "2026-12-01T00:00:00Z"},
        {"body.due_on": "invalid"},
    ),
    "external_id empty": ({"external_id": ""}, {"body.external_id": "too_short"}),
    "external_id too long": ({"external_id": "x" * 201}, {"body.external_id": "too_long"}),
    "external_id a number": ({"external_id": 7}, {"body.external_id": "wrong_type"}),
    "external_id with NUL": ({"external_id": "\x00"}, {"body.external_id": "invalid"}),
    "metadata null": ({"metadata": None}, {"body.metadata": "wrong_type"}),
    "metadata a list": ({"metadata": []}, {"body.metadata": "wrong_type"}),
    "metadata too deep": ({"metadata": nested(33)}, {"body.metadata": "out_of_range"}),
    "metadata too deep by lists": (
        {"metadata": {"a": [[nested(30)]]}},
        {"body.metadata": "out_of_range"},
    ),
    "metadata with NUL": ({"metadata": {"a": ["\x00"]}}, {"body.metadata": "invalid"}),
    "metadata with NUL in a name": (
        {"metadata": {"a": {"b\x00": 1}}},
        {"body.metadata": "invalid"},
    ),
    "completed_at given": (
        {"completed_at": "2026-12-01T00:00:00Z"},
        {"body.completed_at": "unknown"},
    ),
    "deleted_at given": ({"deleted_at": None}, {"body.deleted_at": "unknown"}),
}


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize("call", ["create", "update"])
async def test_what_breaks_a_bound_is_named_and_nothing_changes(
    alice: Account, fault: str, call: str
) -> None:
    fields, errors = REFUSED[fault]
    task = await alice.create_task()
    if call == "create":
        response = await alice.client.post("/api/v1/tasks", json={"title": "x"} | fields)
    else:
        response = await alice.client.patch(f"/api/v1/tasks/{task['id']}", json=fields)

    assert_error(response, 400, "validation_failed", fields=errors)
    listed = await alice.client.get("/api/v1/tasks")
    assert listed.json()["data"]["tasks"] == [task]


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
async def test_a_number_beyond_every_parser_is_refused(alice: Account, number: str) -> None:
    response = await alice.client.post(
        "/api/v1/tasks",
        content=f'{{"title": "x", "metadata": {{"a": [{{"b": {number}}}]}}}}',
        headers={"Content-Type": "application/json"},
    )

    assert_error(response, 400, "validation_failed", fields={"body.metadata": "out_of_range"})


async def test_metadata_is_measured_as_it_is_written_out(alice: Account) -> None:
    too_large = {"body.metadata": "too_long"}
    response = await alice.client.post(
        "/api/v1/tasks", json={"title": "x", "metadata": sized(16_385)}
    )
    assert_error(response, 400, "validation_failed", fields=too_large)
    # PostgreSQL keeps 1e300 with all its digits, and writes them.
    body = json.dumps({"title": "x", "metadata": {"a": [1e300] * 60}})
    response = await alice.client.post(
        "/api/v1/tasks", content=body, headers={"Content-Type": "application/json"}
    )
    assert_error(response, 400, "validation_failed", fields=too_large)


async def test_an_integer_of_thousands_of_digits_is_kept_or_refused(alice: Account) -> None:
    for digits, statuses in ((4000, {201}), (4300, {201, 400}), (4301, {400}), (9000, {400})):
        response = await alice.client.post(
            "/api/v1/tasks",
            content=f'{{"title": "x", "metadata": {{"a": -{"9" * digits}}}}}',
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code in statuses, digits
    assert (await alice.client.get("/api/v1/tasks")).status_code == 200


async def test_an_external_id_belongs_to_one_live_task_of_an_owner(
    alice: Account, bob: Account
) -> None:
    task = await kept(alice, external_id=" crm/4711%2F ")
    assert task["external_id"] == " crm/4711%2F "
    await bob.create_task(external_id=" crm/4711%2F ")

    body = {"title": "x", "external_id": task["external_id"]}
    assert_error(
        await alice.client.post("/api/v1/tasks", json=body),
        409,
        "external_id_taken",
        fields={"body.external_id": "duplicate"},
    )
    other = await alice.create_task(external_id="crm/4712")
    response = await alice.client.patch(f"/api/v1/tasks/{other['id']}", json=body)
    assert_error(response, 409, "external_id_taken", fields={"body.external_id": "duplicate"})
    await alice.client.delete(f"/api/v1/tasks/{task['id']}")
    assert (await alice.create_task(**body))["external_id"] == task["external_id"]


def test_every_instant_of_a_row_is_written_with_microseconds_also_on_a_whole_second() -> None:
    schema = TrashedTaskRead.model_json_schema(mode="serialization")["properties"]
    instants = {
        name
        for name, field in schema.items()
        if "date-time"
        in [field.get("format"), *(one.get("format") for one in field.get("anyOf", []))]
    }
    whole = datetime(2030, 1, 1, tzinfo=UTC)
    row: dict[str, Any] = dict.fromkeys(TrashedTaskRead.model_fields)
    row |= {"status": "pending", "priority": "low"} | dict.fromkeys(instants, whole)

    written = json.loads(TrashedTaskRead.of_row(row).model_dump_json(warnings=False))
    assert len(instants) == 5
    assert {written[name] for name in instants} == {"2030-01-01T00:00:00.000000Z"}
