"""How endpoints are called, where no endpoint of the service shows it."""

from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, Request
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from sqlalchemy import select

from app.accounts.credentials import Actor, bearer
from app.accounts.models import Credential
from app.core.endpoints import Endpoint
from app.core.settings import Settings
from app.db.session import Database
from app.main import create_app
from tests.support import Account, http_client, served


class Number(BaseModel):
    number: int


def request(**headers: str) -> Request:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": encoded,
            "query_string": b"",
            "path_params": {},
            "app": FastAPI(),
        }
    )


@pytest.mark.parametrize(("given", "called_with"), [("3", [3]), ("three", [])])
async def test_what_depends_on_something_invalid_is_not_called(
    given: str, called_with: list[int]
) -> None:
    called: list[int] = []

    async def inner(number: Annotated[int, Header()]) -> int:
        return number

    async def outer(number: Annotated[int, Depends(inner)]) -> int:
        called.append(number)
        return number + 1

    async def endpoint(
        number: Annotated[int, Depends(outer)], same: Annotated[int, Depends(inner)]
    ) -> Number:
        return Number(number=number + same)

    call = Endpoint(get_dependant(path="/", call=endpoint), status_code=None)
    if called_with:
        assert (await call(request(number=given))).body == b'{"number":7}'
    else:
        with pytest.raises(RequestValidationError) as caught:
            await call(request(number=given))
        assert [fault["loc"] for fault in caught.value.errors()] == [("header", "number")]
    assert called == called_with


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_an_application_can_override_what_endpoints_depend_on(
    settings: Settings, alice: Account, database: Database, kind: str
) -> None:
    await alice.create_task()
    async with database.session() as session:
        one_of_hers = select(Credential.id).where(Credential.user_id == alice.id).limit(1)
        credential_id = await session.scalar(one_of_hers)
    assert credential_id is not None
    her = Actor(user_id=alice.id, credential_id=credential_id, scopes=frozenset())

    def always_her() -> Actor:
        return her

    async def her_by_header(name: Annotated[str, Header(alias="X-Request-ID")]) -> Actor:
        assert name == "her"
        return her

    app = create_app(settings)
    with served(app) as url:
        async with http_client(url, {"X-Request-ID": "her"}) as client:
            assert (await client.get("/api/v1/tasks")).status_code == 401
            app.dependency_overrides[bearer] = her_by_header if kind == "coroutine" else always_her
            assert (await client.get("/api/v1/tasks")).json()["data"]["total"] == 1
            app.dependency_overrides.clear()
            assert (await client.get("/api/v1/tasks")).status_code == 401


async def test_a_parameter_that_may_be_absent_can_be_a_list() -> None:
    async def endpoint(number: Annotated[list[int] | None, Header()] = None) -> Number:
        return Number(number=sum(number or [3]))

    call = Endpoint(get_dependant(path="/", call=endpoint), status_code=None)
    assert (await call(request(number="5"))).body == b'{"number":5}'
    assert (await call(request())).body == b'{"number":3}'


def test_what_endpoints_here_are_not_given_is_refused_when_they_are_declared() -> None:
    async def dependency() -> int:
        return 1

    async def scoped(scopes: SecurityScopes) -> None: ...
    async def connected(connection: HTTPConnection) -> None: ...
    async def anew(number: Annotated[int, Depends(dependency, use_cache=False)]) -> None: ...
    def blocking() -> None: ...

    for call in (scoped, connected, anew, blocking):
        with pytest.raises(TypeError):
            Endpoint(get_dependant(path="/", call=call), status_code=None)


async def test_what_depends_twice_on_what_is_overridden_gets_the_same() -> None:
    async def dependency() -> int:
        return 0

    async def endpoint(
        one: Annotated[int, Depends(dependency)], other: Annotated[int, Depends(dependency)]
    ) -> Number:
        return Number(number=10 * one + other)

    numbers = iter(range(1, 10))
    asked = request()
    asked.app.dependency_overrides[dependency] = lambda: next(numbers)
    call = Endpoint(get_dependant(path="/", call=endpoint), status_code=None)
    assert (await call(asked)).body == b'{"number":11}'


async def test_an_override_that_cannot_be_waited_for_is_refused() -> None:
    async def dependency() -> int:
        return 0

    async def endpoint(number: Annotated[int, Depends(dependency)]) -> Number:
        return Number(number=number)

    def blocking() -> Iterator[int]:
        yield 1

    asked = request()
    asked.app.dependency_overrides[dependency] = blocking
    with pytest.raises(TypeError, match="not asynchronous"):
        await Endpoint(get_dependant(path="/", call=endpoint), status_code=None)(asked)
