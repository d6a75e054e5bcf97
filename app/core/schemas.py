"""The bases of what clients send."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAXIMUM_ID = 2**53 - 1
"""The largest integer that every JSON client holds exactly."""


class InputModel(BaseModel):
    """A body or a query: unknown fields are refused by name, and no input stands in an error."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _only_digits(value: object) -> object:
    # Pydantic would also take `1_000`, ` 7 ` and `7.0`.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise PydanticCustomError("int_parsing", "Input should be a whole number in digits")
    return value


class PageQuery(InputModel):
    """Which page of a list."""

    page: Annotated[int, BeforeValidator(_only_digits)] = Field(
        default=1, ge=1, le=MAXIMUM_ID, description="The page, from 1.", examples=[1]
    )
    per_page: Annotated[int, BeforeValidator(_only_digits)] = Field(
        default=20, ge=1, le=100, description="How many on a page.", examples=[20]
    )

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page

    def pages(self, total: int) -> int:
        """How many pages `total` rows fill; 0 when there are none."""
        return -(-total // self.per_page)
