"""`Idempotency-Key`: a repeat gives the first answer again, and one row."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from app.tasks import idempotency, purge
from tests.conftest import NewAccount, NewDatabase
from tests.support import (
    Account,
    assert_error,
    http_client,
    make_account,
    run_sql,
    served,
    service_settings,
    statements_of,
)

PATH = "/api/v1/tasks"


async def post(
    account: Account, key: str | None = "a-key", body: Any = None, **options: Any
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"title": "Water"} if body is None else body
    return await account.client.post(PATH, json=body, headers=headers, **options)


async def count_tasks(account: Account) -> int:
    total: int = (await account.client.get(PATH)).json()["data"]["total"]
    return total


async def stored_keys(database: Database, account: Account) -> list[str]:
    async with database.session() as session:
        statement = text("SELECT key FROM idempotency_keys WHERE owner_id = :id")
        return list(await session.scalars(statement, {"id": account.id}))


async def age(database: Database, account: Account, interval: str) -> None:
    async with database.session() as session:
        await session.execute(
            text(
                "UPDATE idempotency_keys SET created_at = now() - CAST(:age AS text)::interval "
                "WHERE owner_id = :id"
            ),
            {"id": account.id, "age": interval},
        )


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    """The two answers are equal but for what belongs to the request and not to the write."""
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    of_the_request = {"x-request-id", "date", "ratelimit", "idempotent-replayed"}
    kept = [
        {name: value for name, value in answer.headers.items() if name not in of_the_request}
        for answer in (again, first)
    ]
    assert kept[0] == kept[1]


async def test_a_repeat_gets_the_first_answer_and_makes_no_second_row(alice: Account) -> None:
    first = await post(alice)
    assert first.status_code == 201
    assert first.headers["Location"] == f"{PATH}/{first.json()['data']['id']}"

    assert_replayed(await post(alice), first)
    # Whatever becomes of the task meanwhile.
    assert (await alice.client.delete(first.headers["Location"])).status_code == 200
    assert_replayed(await post(alice), first)
    assert await count_tasks(alice) == 0


async def test_a_keyed_answer_is_the_same_as_one_without_a_key(alice: Account) -> None:
    keyed, plain = await post(alice), await post(alice, key=None)

    assert keyed.headers.keys() == plain.headers.keys()
    assert keyed.json()["data"].keys() == plain.json()["data"].keys()
    assert await count_tasks(alice) == 2


async def test_the_same_json_in_another_form_is_the_same_request(alice: Account) -> None:
    first = await post(alice, body={"title": "é", "priority": "low"})
    headers = {"Idempotency-Key": "a-key", "Content-Type": "application/json; charset=utf-8"}
    again = await alice.client.post(
        PATH, content=b' { "priority":"low",\n "title" : "\\u00e9"} ', headers=headers
    )

    assert_replayed(again, first)


@pytest.mark.parametrize(
    "body", [{"title": "Fire"}, {"title": "Water", "priority": "low"}, {"title": "Water "}, {}, []]
)
async def test_a_key_with_another_body_is_refused(alice: Account, body: Any) -> None:
    first = await post(alice)

    assert_error(await post(alice, body=body), 422, "idempotency_key_reused")
    assert await count_tasks(alice) == 1
    assert_replayed(await post(alice), first)


async def test_another_key_is_another_request(alice: Account) -> None:
    answers = [await post(alice, key) for key in ("a", "A", "b")]

    assert len({answer.json()["data"]["id"] for answer in answers}) == 3


async def test_the_keys_of_two_users_are_apart(alice: Account, bob: Account) -> None:
    for account in (alice, bob):
        response = await post(account, body={"title": account.username})
        assert response.status_code == 201
        assert "Idempotent-Replayed" not in response.headers
        assert response.json()["data"]["owner_id"] == account.id
        assert await count_tasks(account) == 1


KEYS = {
    "one character": ("k", "k"),
    "255 characters": ("k" * 255, "k" * 255),
    "a UUID": ("8e03978e-40d5-43dd-bc93-6894a57f9324",) * 2,
    "a quoted string": ('"a-key"', "a-key"),
    "255 characters in quotes": (f'"{"k" * 255}"', "k" * 255),
    "escapes in quotes": (r'"a\"b\\c"', r'a"b\c'),
    "255 escapes in quotes": (f'"{chr(92) * 510}"', chr(92) * 255),
    "all visible characters": ("".join(map(chr, range(0x23, 0x7F))) + '!"',) * 2,
}


@pytest.mark.parametrize("form", KEYS)
async def test_keys_are_bare_or_quoted(alice: Account, database: Database, form: str) -> None:
    sent, key = KEYS[form]
    first = await post(alice, sent)

    assert first.status_code == 201
    assert await stored_keys(database, alice) == [key]
    assert_replayed(await post(alice, sent), first)


async def test_quoted_and_bare_are_the_same_key(alice: Account) -> None:
    first = await post(alice, "a-key")

    assert_replayed(await post(alice, '"a-key"'), first)


BAD_KEYS = {
    "": "too_short",
    '""': "too_short",
    "k" * 256: "too_long",
    f'"{"k" * 256}"': "too_long",
    "a key": "invalid",
    '"a key"': "invalid",
    "a\tkey": "invalid",
    "clé": "invalid",
    '"clé"': "invalid",
    '"': "invalid",
    '"a-key': "invalid",
    '"a"b"': "invalid",
    '"a\\b"': "invalid",
    '"a-key";v=1': "invalid",
    '"a", "b"': "invalid",
    "a, b": "invalid",
}


@pytest.mark.parametrize("number", range(len(BAD_KEYS)))
async def test_a_malformed_key_is_refused_by_name(
    alice: Account, database: Database, number: int
) -> None:
    key, code = list(BAD_KEYS.items())[number]
    response = await alice.client.post(
        PATH, json={"title": "x"}, headers=[(b"Idempotency-Key", key.encode())]
    )

    fields = {"header.idempotency-key": code}
    assert_error(response, 400, "validation_failed", fields=fields)
    assert await count_tasks(alice) == 0
    assert await stored_keys(database, alice) == []


async def test_a_repeated_header_is_refused_by_name(alice: Account) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    response = await alice.client.post(PATH, json={"title": "x"}, headers=headers)

    fields = {"header.idempotency-key": "duplicate"}
    assert_error(response, 400, "validation_failed", fields=fields)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"title": ""}', "validation_failed"),
        (b"{}", "validation_failed"),
        (b"", "validation_failed"),
        (b"{not json", "malformed_json"),
        (b'{"title": "x", "title": "y"}', "validation_failed"),
    ],
)
async def test_a_failed_request_leaves_no_key_behind(
    alice: Account, database: Database, content: bytes, code: str
) -> None:
    headers = {"Idempotency-Key": "a-key", "Content-Type": "application/json"}
    for _ in range(2):
        response = await alice.client.post(PATH, content=content, headers=headers)
        assert response.json()["code"] == code
        assert response.status_code == 400
    assert await stored_keys(database, alice) == []

    # The key is free for the request as it was meant.
    assert (await post(alice)).status_code == 201


async def test_a_key_is_good_for_24_hours(alice: Account, database: Database) -> None:
    first = await post(alice)
    await age(database, alice, "23:59:50")
    assert_replayed(await post(alice), first)
    assert_error(await post(alice, body={"title": "Fire"}), 422, "idempotency_key_reused")

    await age(database, alice, "24:00:01")
    later = await post(alice, body={"title": "Fire"})
    assert later.json()["data"]["title"] == "Fire"
    assert later.json()["data"]["id"] != first.json()["data"]["id"]
    # From now on it stands for the later request, for another 24 hours.
    assert_replayed(await post(alice, body={"title": "Fire"}), later)
    assert_error(await post(alice), 422, "idempotency_key_reused")


async def test_an_expired_key_whose_new_request_fails_stays_expired(
    alice: Account, database: Database
) -> None:
    await post(alice)
    await age(database, alice, "24:00:01")

    assert_error(
        await post(alice, body={"title": ""}),
        400,
        "validation_failed",
        fields={"body.title": "too_short"},
    )
    assert "Idempotent-Replayed" not in (await post(alice)).headers


@pytest.mark.parametrize("ending", ["revoked_at", "expires_at"])
async def test_an_ended_credential_gets_no_replay(
    alice: Account, database: Database, ending: str
) -> None:
    await post(alice)
    async with database.session() as session:
        await session.execute(
            text(f"UPDATE credentials SET {ending} = now() WHERE id = :id"),  # noqa: S608 - from the list above
            {"id": alice.credential_id},
        )

    for key in ("a-key", "another"):
        assert_error(await post(alice, key), 401, "unauthenticated")
    assert await stored_keys(database, alice) == ["a-key"]


async def test_a_login_without_the_scope_gets_no_replay(new_account: NewAccount) -> None:
    account = await new_account()
    assert (await post(account)).status_code == 201
    key = await account.create_api_key(scopes=["tasks:read"])
    headers = {"Authorization": f"Bearer {key['key']}", "Idempotency-Key": "a-key"}

    again = await account.client.post(PATH, json={"title": "Water"}, headers=headers)

    assert_error(again, 403, "insufficient_scope")


async def test_a_write_whose_commit_fails_leaves_neither_key_nor_task(
    new_database: NewDatabase,
) -> None:
    settings = service_settings(new_database())
    url = settings.required_database_url
    run_sql(
        url,
        "CREATE FUNCTION fail_commit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$",
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON tasks "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_commit()",
    )
    database = Database(settings)
    with served(create_app(settings)) as base_url:
        carol = await make_account(database, base_url)
        async with carol.client:
            assert_error(await post(carol), 503, "database_unavailable")
            assert await stored_keys(database, carol) == []
            run_sql(url, "DROP TRIGGER fail ON tasks")
            first = await post(carol)
            assert first.status_code == 201
            assert_replayed(await post(carol), first)
            assert await count_tasks(carol) == 1
    await database.close()


async def test_without_the_header_a_create_stays_one_statement(
    settings: Settings, alice: Account
) -> None:
    app = create_app(settings)
    statements = statements_of(app)

    with served(app) as url:
        async with http_client(url, {"Authorization": f"Bearer {alice.token}"}) as client:
            # The worker looks the credential up once.
            await client.get(PATH)
            for headers, expected in (
                ({}, ["INSERT"]),
                # The key, the task, the answer.
                ({"Idempotency-Key": "a-key"}, ["INSERT", "INSERT", "UPDATE"]),
                ({"Idempotency-Key": "a-key"}, ["INSERT", "SELECT"]),
            ):
                statements.clear()
                await client.post(PATH, json={"title": "x"}, headers=headers)
                assert statements == expected


async def test_closing_an_account_takes_its_keys_along(
    new_account: NewAccount, database: Database
) -> None:
    dora = await new_account()
    await post(dora)
    async with database.session() as session:
        await session.execute(text("DELETE FROM users WHERE id = :id"), {"id": dora.id})

    assert await stored_keys(database, dora) == []
    assert_error(await post(dora), 401, "unauthenticated")


async def test_purging_removes_the_expired_keys_alone_and_only_so_many_at_once(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = service_settings(new_database())
    database = Database(settings)
    account = await make_account(database, "http://unused")
    fill = text(
        "INSERT INTO idempotency_keys (owner_id, key, fingerprint, status, headers, body, "
        "created_at) SELECT :id, n::text, '', 201, '{}', '', now() - n * interval '1 hour' "
        "FROM generate_series(1, 49) n"
    )
    async with database.session() as session:
        await session.execute(fill, {"id": account.id})
        await session.execute(idempotency.delete_expired_keys(at_once=6))
    assert len(await stored_keys(database, account)) == 43
    monkeypatch.setattr(purge, "BATCH", 10)
    # The 24th was made just 24 hours before, and that is over by now.
    assert await purge.purge(database, settings) == {"tasks": 0, "idempotency_keys": 20}
    left = {int(key) for key in await stored_keys(database, account)}
    assert left == set(range(1, 24))
    await account.client.aclose()
    await database.close()


def test_a_fingerprint_depends_on_the_method_the_path_and_the_json_alone() -> None:
    body = {"a": [1, {"b": None, "c": "é"}], "d": 1.5}
    same = json.loads('{"d": 1.50, "a": [1, {"c": "\\u00e9", "b": null}]}')
    fingerprint = idempotency.fingerprint

    assert fingerprint("POST", PATH, body) == fingerprint("POST", PATH, same)
    others = [
        fingerprint("PUT", PATH, body),
        fingerprint("POST", PATH + "/batch", body),
        fingerprint("POST", PATH, body | {"d": "1.5"}),
        fingerprint("POST", PATH, body | {"a": [{"b": None, "c": "é"}, 1]}),
        fingerprint("POST", PATH, None),
    ]
    assert len({fingerprint("POST", PATH, body), *others}) == len(others) + 1
