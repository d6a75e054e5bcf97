"""How endpoints are called, where no endpoint of the service shows it."""

from typing import Annotated

import pytest
from fastapi import Depends, Header, Request
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from app.core.endpoints import Endpoint


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
