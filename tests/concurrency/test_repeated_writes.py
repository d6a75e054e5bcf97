"""Repeats of a write that arrive while the first runs, and after a server was killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from app.tasks import idempotency
from tests.concurrency.locks import wait_until_waiting
from tests.conftest import NewDatabase
from tests.silenceable_proxy import SilenceableProxy
from tests.support import (
    Account,
    assert_error,
    http_client,
    make_account,
    running_service,
    served,
    service_settings,
)

PATH = "/api/v1/tasks"
BURST = 20


async def post(client: httpx.AsyncClient, key: str = "a-key", title: str = "x") -> httpx.Response:
    return await client.post(PATH, json={"title": title}, headers={"Idempotency-Key": key})


async def titles(account: Account) -> list[str]:
    tasks = (await account.client.get(PATH)).json()["data"]["tasks"]
    return [task["title"] for task in tasks]


def client_of(account: Account, base_url: str) -> httpx.AsyncClient:
    return http_client(base_url, {"Authorization": f"Bearer {account.token}"})


@asynccontextmanager
async def held_key(database: Database, account: Account) -> AsyncIterator[AsyncSession]:
    """A transaction that has claimed the key and goes on, as one of another worker's would."""
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO idempotency_keys (owner_id, key, fingerprint, status, headers, body) "
                "VALUES (:id, 'a-key', '', 201, '{}', '')"
            ),
            {"id": account.id},
        )
        yield session


async def test_twenty_at_once_make_one_row_and_get_twenty_equal_answers(
    settings: Settings, alice: Account
) -> None:
    with served(create_app(settings)) as other_url:
        async with client_of(alice, other_url) as other:
            for burst in range(5):
                key = f"burst-{burst}"
                answers = await asyncio.gather(
                    *(
                        post(alice.client if number % 2 else other, key, title=key)
                        for number in range(BURST)
                    )
                )

                assert {answer.status_code for answer in answers} == {201}
                assert len({answer.content for answer in answers}) == 1
                assert len({answer.headers["Location"] for answer in answers}) == 1
                replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
                assert sorted(replayed, key=str) == [None] + ["true"] * (BURST - 1)
    assert sorted(await titles(alice)) == [f"burst-{burst}" for burst in range(5)]


async def test_of_different_requests_with_one_key_the_first_wins_and_the_others_are_told(
    alice: Account,
) -> None:
    answers = await asyncio.gather(
        *(post(alice.client, title=f"{number % 4}") for number in range(BURST))
    )

    (title,) = await titles(alice)
    for number, answer in enumerate(answers):
        if f"{number % 4}" == title:
            assert answer.json()["data"]["title"] == title
        else:
            assert_error(answer, 422, "idempotency_key_reused")


async def test_a_repeat_waits_for_the_first_and_gets_its_answer(
    settings: Settings, alice: Account, database: Database
) -> None:
    with served(create_app(settings)) as other_url:
        async with client_of(alice, other_url) as other:
            async with database.transaction() as session:
                # The first stores its key and then waits for this row, to refer to it.
                await session.execute(
                    text("SELECT FROM users WHERE id = :id FOR UPDATE"), {"id": alice.id}
                )
                first = asyncio.create_task(post(alice.client))
                await wait_until_waiting(database, "INSERT INTO idempotency_keys")
                repeats = [
                    asyncio.create_task(post(client)) for client in (alice.client, other, other)
                ]
                await wait_until_waiting(database, "INSERT INTO idempotency_keys", 2)
            answers = await asyncio.gather(first, *repeats)

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [
        None,
        "true",
        "true",
        "true",
    ]


async def test_a_repeat_that_has_waited_long_enough_is_told_that_the_first_is_in_flight(
    alice: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_SECONDS", 0.2)
    async with held_key(database, alice) as session:
        answers = await asyncio.gather(*(post(alice.client) for _ in range(4)))
        for answer in answers:
            assert_error(answer, 409, "idempotency_in_flight")
            assert answer.headers["Retry-After"] == "1"
        await session.rollback()

    # The other transaction has failed, so that the key is free.
    assert (await post(alice.client)).status_code == 201
    assert await titles(alice) == ["x"]


async def test_the_first_may_wait_longer_than_a_repeat(
    alice: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_SECONDS", 0.2)
    async with database.transaction() as session:
        await session.execute(text("LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE"))
        first = asyncio.create_task(post(alice.client))
        await wait_until_waiting(database, "INSERT INTO tasks")
        assert_error(await post(alice.client), 409, "idempotency_in_flight")

    assert (await first).status_code == 201
    assert "Idempotent-Replayed" not in (await first).headers
    assert (await post(alice.client)).content == (await first).content


async def test_when_the_first_fails_the_next_in_line_does_the_work(
    alice: Account, database: Database
) -> None:
    async with held_key(database, alice) as session:
        repeats = [asyncio.create_task(post(alice.client)) for _ in range(3)]
        await wait_until_waiting(database, "INSERT INTO idempotency_keys")
        await session.rollback()

    answers = [await repeat for repeat in repeats]
    assert {answer.status_code for answer in answers} == {201}
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None, "true", "true"]
    assert await titles(alice) == ["x"]


async def test_a_credential_that_ends_while_a_repeat_waits_gets_no_replay(
    alice: Account, database: Database
) -> None:
    async with held_key(database, alice):
        repeat = asyncio.create_task(post(alice.client))
        await wait_until_waiting(database, "INSERT INTO idempotency_keys")
        async with database.session() as session:
            await session.execute(
                text("UPDATE credentials SET revoked_at = now() WHERE id = :id"),
                {"id": alice.credential_id},
            )

    assert_error(await repeat, 401, "unauthenticated")


async def test_those_who_wait_leave_connections_to_others(
    settings: Settings, alice: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_SECONDS", 3.0)
    small = settings.model_copy(update={"database_pool_size": 2, "database_pool_timeout": 0.2})
    with served(create_app(small)) as url:
        async with client_of(alice, url) as client:
            # The worker knows the credential from then on, and needs no connection to look it up.
            assert (await client.get(PATH)).status_code == 200
            async with held_key(database, alice):
                waiting = [asyncio.create_task(post(client)) for _ in range(10)]
                await wait_until_waiting(database, "INSERT INTO idempotency_keys")
                # One connection of the two is left, for everybody else.
                for _ in range(3):
                    response = await client.post(PATH, json={"title": "no key"})
                    assert response.status_code == 201
                # But not for one who might have to wait as well.
                assert_error(await post(client, "another"), 503, "overloaded")
            for answer in await asyncio.gather(*waiting):
                # It is another request that was held above, with another fingerprint.
                assert_error(answer, 422, "idempotency_key_reused")


async def test_only_so_many_may_wait(
    alice: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAXIMUM_WAITING", 0)
    async with held_key(database, alice):
        first = asyncio.create_task(post(alice.client))
        await wait_until_waiting(database, "INSERT INTO idempotency_keys")
        assert_error(await post(alice.client), 409, "idempotency_in_flight")
    await first


@pytest.fixture
async def carol(new_database: NewDatabase) -> AsyncIterator[tuple[Account, Settings]]:
    """An account in a database of its own, and the settings of services on it."""
    settings = service_settings(new_database())
    database = Database(settings)
    account = await make_account(database, "http://unused")
    yield account, settings
    await account.client.aclose()
    await database.close()


@pytest.mark.long
async def test_a_killed_server_wrote_once_what_it_had_committed_and_nothing_of_the_rest(
    carol: tuple[Account, Settings],
) -> None:
    account, settings = carol
    database = Database(settings)
    with running_service(settings.required_database_url) as service:
        address = make_url(service.base_url)
        assert address.host
        assert address.port
        async with (
            SilenceableProxy(address.host, address.port) as proxy,
            client_of(account, f"http://127.0.0.1:{proxy.port}") as deafened,
            client_of(account, service.base_url) as client,
            database.transaction() as session,
        ):
            proxy.deaf = True
            committed = asyncio.create_task(post(deafened, "committed", "committed"))
            # The server has answered, so it has committed; the client never hears of it.
            await proxy.swallowed.wait()
            await session.execute(text("LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE"))
            cut_off = asyncio.create_task(post(client, "cut-off", "cut off"))
            # The key is stored by now, in the transaction that waits to store the task.
            await wait_until_waiting(database, "INSERT INTO tasks")
            service.stop(signal.SIGKILL)
            for lost in (committed, cut_off):
                with pytest.raises(httpx.TransportError):
                    await lost

    await database.close()
    with served(create_app(settings)) as url:
        async with client_of(account, url) as client:
            again = replace(account, client=client)
            assert await titles(again) == ["committed"]

            answer = await post(client, "committed", "committed")
            assert answer.status_code == 201
            assert answer.headers["Idempotent-Replayed"] == "true"
            assert answer.headers["Location"] == f"{PATH}/{answer.json()['data']['id']}"

            answer = await post(client, "cut-off", "cut off")
            assert answer.status_code == 201
            assert "Idempotent-Replayed" not in answer.headers
            assert sorted(await titles(again)) == ["committed", "cut off"]
