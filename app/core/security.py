"""Passwords and bearer credentials: how they are made, recognised and stored."""

import asyncio
import hashlib
import hmac
import secrets
import string
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.core.errors import Overloaded

ALPHABET = string.digits + string.ascii_letters
RANDOM_CHARACTERS = 32
# How much of a token's random part is shown to tell it by: what is left still has over 160 bits.
SHOWN_CHARACTERS = 4
CHECKSUM_CHARACTERS = 6
# More than wait for a second or two are told to come back.
MAXIMUM_WAITING_HASHES = 50
# With two passes and one lane, above the least that OWASP asks for in its cheat sheet on passwords
# (19 MiB, two passes, one lane); a hash keeps to one core.
ARGON2_MEMORY_KIB = 32 * 1024

Result = TypeVar("Result")


class PasswordHasher:
    """Argon2id in threads, a few at a time: a storm of logins leaves the event loop free."""

    def __init__(self, *, concurrency: int) -> None:
        self._argon2 = PasswordHash(
            (Argon2Hasher(memory_cost=ARGON2_MEMORY_KIB, time_cost=2, parallelism=1),)
        )
        self._limiter = CapacityLimiter(concurrency)
        # Checked when the name is unknown, so that the answer takes as long as for a known one.
        self._decoy = self._argon2.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """The encoded Argon2id hash of `password`, with its salt and parameters.

        Raises `Overloaded` if too many are waiting for theirs.
        """
        return await self._in_thread(partial(self._argon2.hash, password))

    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        """Whether `password` matches, and a new hash if the parameters have risen since.

        Takes the same time for `password_hash=None`, and answers False. Raises `Overloaded` if too
        many are waiting for theirs.
        """
        check = partial(self._argon2.verify_and_update, password, password_hash or self._decoy)
        matches, rehashed = await self._in_thread(check)
        return matches and password_hash is not None, rehashed

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._limiter.statistics().tasks_waiting >= MAXIMUM_WAITING_HASHES:
            raise Overloaded
        # A thread cannot be stopped: it must count as busy also when nobody waits for it any more.
        return await asyncio.shield(to_thread.run_sync(work, limiter=self._limiter))


def new_token(prefix: str) -> str:
    """A bearer credential: `prefix`, 32 random base-62 characters (190 bits) and their checksum."""
    random = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return prefix + random + _checksum(prefix + random)


def shown_prefix(token: str, *, prefix: str) -> str:
    """The start of a token, for people to tell it by."""
    return token[: len(prefix) + SHOWN_CHARACTERS]


def is_well_formed_token(token: str, *, prefixes: tuple[str, ...]) -> bool:
    """Whether `token` may be one of ours; a mistyped one needs no look at the database."""
    body, checksum = token[:-CHECKSUM_CHARACTERS], token[-CHECKSUM_CHARACTERS:]
    return (
        token.isascii()
        and any(
            token.startswith(prefix)
            and len(token) == len(prefix) + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS
            for prefix in prefixes
        )
        and _checksum(body) == checksum
    )


def _checksum(text: str) -> str:
    """CRC-32 in base 62, padded to six characters, as GitHub's tokens have it."""
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def token_digest(token: str, secret_key: str) -> bytes:
    """What is stored of a credential: HMAC-SHA-256 under a key derived from `SECRET_KEY`.

    A keyed digest suffices in place of a slow hash because the token is random, not chosen.
    """
    return hmac.digest(_digest_key(secret_key), token.encode(), hashlib.sha256)


@lru_cache(maxsize=8)
def _digest_key(secret_key: str) -> bytes:
    return hmac.digest(secret_key.encode(), b"taskflow credential digest", hashlib.sha256)
