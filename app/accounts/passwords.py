"""What a password must be, and how often it may be guessed."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

from fastapi import Request

from app.accounts.audit import audit
from app.accounts.models import login_key
from app.core.errors import ValidationFailed
from app.core.rate_limits import RateLimited, address_key, ensure_left, spend
from app.core.responses import FieldError
from app.core.settings import Environment, Settings

COMMON_PASSWORDS = Path(__file__).parent / "common_passwords.txt"


@cache
def _common_passwords() -> frozenset[str]:
    return frozenset(COMMON_PASSWORDS.read_text(encoding="ascii").split())


def check_password_policy(password: str, settings: Settings, *, field: str) -> None:
    """Raise `ValidationFailed` on `field` for a password that is too short.

    In production also for one of the commonest, in whatever case.
    """
    fault = None
    if len(password) < settings.password_min_length:
        message = f"The password must have at least {settings.password_min_length} characters"
        fault = FieldError(field=field, message=message, code="too_short")
    elif settings.environment is Environment.PRODUCTION and password.lower() in _common_passwords():
        message = "This is one of the commonest passwords, which are tried first"
        fault = FieldError(field=field, message=message, code="invalid")
    if fault is not None:
        raise ValidationFailed(errors=[fault])


class PasswordGuesses:
    """The guesses that a request's client makes at passwords. Only wrong ones count.

    They are limited by account name and address together, so that nobody can lock others out from
    elsewhere, and by address, so that nobody can try one password on all accounts.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._address = address_key(request.scope)
        settings: Settings = request.app.state.settings
        self._per_account = settings.rate_limit_login
        self._per_address = settings.rate_limit_login_address

    async def ensure_left(self, name: str) -> None:
        """Raise `RateLimited` if this client must not guess at this account's password now.

        Ask before a password is looked at, and again before a right one is let in: of many guesses
        at once, those after the last that counts must not tell which one was right.
        """
        try:
            await ensure_left(self._request, "login-address", self._per_address, self._address)
            await ensure_left(self._request, "login", self._per_account, self._account_key(name))
        except RateLimited:
            audit("login_limited", user_id=None)
            raise

    async def count_wrong(self, name: str) -> None:
        """Count a wrong password. Raises `RateLimited` if it is one too many."""
        await spend(self._request, "login-address", self._per_address, self._address)
        await spend(self._request, "login", self._per_account, self._account_key(name))

    @asynccontextmanager
    async def counted_if_abandoned(self, name: str) -> AsyncGenerator[None]:
        """Count a guess as wrong if the client goes before it is known.

        Else anybody could have passwords hashed without end.
        """
        try:
            yield
        except asyncio.CancelledError:
            with suppress(RateLimited):
                await self.count_wrong(name)
            raise

    def _account_key(self, name: str) -> str:
        """The name as it is compared, of a bounded length and readable in no storage."""
        key = login_key(name) or name
        return f"{hashlib.sha256(key.encode()).hexdigest()}/{self._address}"
