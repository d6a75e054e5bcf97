"""More than a service can do: some are refused at once, the others are served as before."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import NamedTuple

import pytest
import uvloop

from app.core.settings import Settings
from app.db.session import Database
from tests.conftest import NewDatabase
from tests.support import (
    Account,
    RunningService,
    make_account,
    run_sql,
    running_service,
    service_settings,
)
from tests.survival.load import Load, Outcome

pytestmark = pytest.mark.survival

REFUSED_WITHIN_SECONDS = 0.1
# A statement on tasks takes 20 ms and no processor: with this pool the capacity is 200 a second,
# and processors are left for the load.
SLOW = (
    "ALTER TABLE tasks RENAME TO stored_tasks",
    "CREATE VIEW tasks AS SELECT t.* FROM stored_tasks t, (SELECT pg_sleep(0.02)) AS slow",
)
POOL_SIZE = 4
MAXIMUM = 40
ROUNDS = 3
# What a list has on a page. Single reads take so little that, at three times as many as can be
# served, what the network takes for refusals, four for each that is served, is as much.
PAGE = 20
# As it comes.
LET_IN = Settings.model_fields["maximum_concurrent_requests"].default


async def test_at_three_times_its_capacity_a_service_refuses_at_once_and_serves_others_as_before(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    limits = {
        "DATABASE_POOL_SIZE": str(POOL_SIZE),
        "MAXIMUM_CONCURRENT_REQUESTS": str(MAXIMUM),
        "RATE_LIMIT_API": "",
    }
    with running_service(url, **limits) as service:
        account = await logged_in(service_settings(url), service)
        task = await account.create_task()
        run_sql(url, *SLOW)
        load = Load(service.base_url, f"/api/v1/tasks/{task['id']}", account.token)
        # Nominal is what a full service takes that nobody asks for more.
        nominal = await load.by_clients(MAXIMUM, 2)
        capacity = nominal.per_second(200)
        over = await load.by_clock(3 * capacity, 3, connections=8 * MAXIMUM)
        load.close()
        await account.client.aclose()

    assert set(nominal.latencies) == {200}
    assert set(over.latencies) == {200, 503}
    assert over.broken == 0
    assert over.per_second(200) > 0.8 * capacity
    assert over.quantile(200, 0.99) <= 2 * nominal.quantile(200, 0.99)
    assert over.quantile(503, 0.99) < REFUSED_WITHIN_SECONDS


async def test_where_the_processor_is_what_is_full_refusals_take_none_from_those_who_are_served(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    with running_service(url, RATE_LIMIT_API="", WORKERS="1") as service:
        account = await logged_in(service_settings(url), service)
        for _ in range(PAGE):
            await account.create_task()
        load = (service.base_url, "/api/v1/tasks", account.token)
        # In a process of its own: it measures latency, and does something else for none of it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            run = asyncio.get_running_loop().run_in_executor
            rounds = await run(process, rounds_of_overload, *load)
        await account.client.aclose()

    # The median round: the machine has other things to do at times.
    assert median(r.over.quantile(200, 0.99) / r.nominal.quantile(200, 0.99) for r in rounds) <= 2
    assert median(r.over.quantile(503, 0.99) for r in rounds) < REFUSED_WITHIN_SECONDS
    for each in rounds:
        assert set(each.nominal.latencies) == {200}
        assert set(each.over.latencies) == {200, 503}
        assert each.over.broken == 0
        assert each.over.count(503) > each.over.count(200)


class Round(NamedTuple):
    """What is served to as many clients as are let in, and at three times that rate."""

    nominal: Outcome
    over: Outcome


def rounds_of_overload(base_url: str, path: str, token: str) -> list[Round]:
    async def measured() -> list[Round]:
        load = Load(base_url, path, token)
        # The first request on each of the connections costs more than those that follow.
        first = await load.by_clients(LET_IN, 1)
        await load.by_clock(3 * first.per_second(200), 1, connections=8 * LET_IN)
        rounds = []
        for _ in range(ROUNDS):
            nominal = await load.by_clients(LET_IN, 2)
            over = await load.by_clock(3 * nominal.per_second(200), 3, connections=8 * LET_IN)
            rounds.append(Round(nominal, over))
        load.close()
        return rounds

    return uvloop.run(measured())


async def logged_in(settings: Settings, service: RunningService) -> Account:
    database = Database(settings)
    account = await make_account(database, service.base_url)
    await database.close()
    return account
