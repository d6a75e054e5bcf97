"""What an operator can set, by environment variables or `.env`, and how faults are told."""

import hashlib
import os
import re
import secrets
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import limits
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CHECKOUT = Path(__file__).resolve().parents[2]
MINIMUM_SECRET_KEY_LENGTH = 32
MINIMUM_PRODUCTION_PASSWORD_LENGTH = 8
MAXIMUM_PORT = 65_535
HOST_AND_PORT = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>\d{1,5}))?"
)
# Of libpq's, those that asyncpg knows.
PARAMETERS_WITH_VALUES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {
        *("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    },
}
# Fewer different characters than this were typed by holding a key down.
MINIMUM_SECRET_KEY_VARIETY = 8
REDIS_URL = re.compile(
    r"rediss?://([^/@?#]*@)?(\[[0-9A-Fa-f:.]+\]|[^/@:?#\[\]]+)(:(?P<port>\d{1,5}))?(/\d{0,4})?"
)
ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
PLACEHOLDER = re.compile(
    r"change.?me|your.?secret|secret.?key|placeholder|example|xxxx", re.IGNORECASE
)

# Of Pydantic's faults, those that say too much or too little of what helps.
CLEARER_WORDS = {
    "bool_parsing": "must be true or false",
    "int_parsing": "must be an integer",
    "float_parsing": "must be a number",
}


def _split_at_commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


# Marks a list that is written with commas, where pydantic-settings would expect JSON.
CommaSeparated = (NoDecode, BeforeValidator(_split_at_commas))


def _as_rate_limit(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        found = limits.parse_many(value)
    except ValueError:
        found = []
    if len(found) != 1 or found[0].amount < 1 or found[0].multiples < 1:
        raise ValueError("must be one limit such as 100/minute, or empty for none")
    return found[0]


Pooler = Literal["none", "transaction"]
RateLimit = Annotated[limits.RateLimitItem | None, BeforeValidator(_as_rate_limit)]


def _as_origin(value: str) -> str:
    if value != "*" and not ORIGIN.fullmatch(value):
        raise ValueError("must hold origins such as https://app.example.com, or *")
    return value


def _as_network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("must hold addresses or networks such as 10.0.0.0/8") from None


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty")
    return value


Origin = Annotated[str, AfterValidator(_as_origin)]
Network = Annotated[str, AfterValidator(_as_network)]


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TESTING = "testing"
    PRODUCTION = "production"


class InvalidSettings(Exception):
    """Every fault in the settings, one sentence each; `str()` of it is made for a terminal."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(
            "\n".join(["taskflow cannot start, its settings need attention:", *faults])
        )
        self.faults = faults


def _default_data_dir() -> Path:
    """Where the development database and its secret live, kept apart for each checkout.

    PostgreSQL refuses to run as root and runs as `nobody` then, who cannot look into a private
    checkout; the data of root therefore lives under `/var/lib`.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/taskflow") / hashlib.sha256(bytes(CHECKOUT)).hexdigest()[:12]
    return CHECKOUT / ".taskflow"


class Settings(BaseSettings):
    """The settings of one process; secrets are shown in no repr, log line or error.

    Construct it by `load_settings()`, which turns faults into sentences.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    # `environment` comes first: the validators below ask for it.
    environment: Environment = Environment.DEVELOPMENT
    data_dir: Annotated[Path, BeforeValidator(_not_empty)] = Field(
        default_factory=_default_data_dir
    )
    database_url: SecretStr | None = Field(default=None, validate_default=True)
    database_pooler: Pooler = "none"
    database_pool_size: Annotated[int, Field(ge=1, le=1000)] = 10
    database_pool_timeout: Annotated[float, Field(gt=0, le=60)] = 0.8
    database_connect_timeout: Annotated[float, Field(gt=0, le=60)] = 1.5
    database_statement_timeout: Annotated[float, Field(gt=0, le=3600)] = 10
    # Less than half of it: whoever waits for a row that others wait for has two locks to wait for.
    database_lock_timeout: Annotated[float, Field(gt=0, le=3600)] = 4
    database_idle_transaction_timeout: Annotated[float, Field(gt=0, le=3600)] = 10
    secret_key: SecretStr = Field(default=SecretStr(""), validate_default=True)
    secret_key_fallback: SecretStr | None = None
    host: Annotated[str, BeforeValidator(_not_empty)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    maximum_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    shutdown_delay: Annotated[float, Field(ge=0, le=300)] = Field(
        default_factory=lambda fields: (
            5 if fields.get("environment") is Environment.PRODUCTION else 0
        )
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = Field(
        default_factory=lambda fields: (
            "json" if fields.get("environment") is Environment.PRODUCTION else "console"
        )
    )
    metrics_enabled: bool = True
    registration_enabled: bool = True
    password_min_length: Annotated[int, Field(ge=1, le=128)] = Field(
        default_factory=lambda fields: (
            12 if fields.get("environment") is Environment.PRODUCTION else 6
        ),
        validate_default=True,
    )
    login_token_ttl: Annotated[int, Field(ge=1, le=10 * 365 * 86_400)] = 86_400
    rate_limit_api: RateLimit = limits.parse("6000/minute")
    rate_limit_registration: RateLimit = Field(
        default_factory=lambda fields: (
            limits.parse("20/hour") if fields.get("environment") is Environment.PRODUCTION else None
        )
    )
    rate_limit_login: RateLimit = limits.parse("10/minute")
    rate_limit_login_address: RateLimit = limits.parse("100/minute")
    redis_url: SecretStr | None = None
    trusted_proxies: Annotated[list[Network], *CommaSeparated] = []
    cors_origins: Annotated[list[Origin], *CommaSeparated] = []

    trash_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 30

    @cached_property
    def secret_keys(self) -> list[str]:
        """The secret that digests and signatures are made with, then the other that is accepted."""
        keys = [self.secret_key, self.secret_key_fallback]
        return [key.get_secret_value() for key in keys if key is not None]

    @property
    def required_database_url(self) -> str:
        """The database's address, password included. Raises `InvalidSettings` if it is not set."""
        if self.database_url is None:
            raise InvalidSettings(
                ["  DATABASE_URL is not set; in development, taskflow serve brings one along"]
            )
        return self.database_url.get_secret_value()

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _in_the_form_of_asyncpg(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        url = value.get_secret_value().strip() if value else ""
        if not url:
            if info.data.get("environment") is Environment.PRODUCTION:
                raise ValueError(
                    "is required in production, such as postgresql://user:password@host/taskflow"
                )
            return None
        scheme = re.match(r"(?:postgres|postgresql|postgresql\+asyncpg)://", url)
        if scheme is None:
            raise ValueError("must start with postgresql://, postgres:// or postgresql+asyncpg://")
        rest = url[scheme.end() :]
        authority = re.split(r"[/?]", rest, maxsplit=1)[0]
        who, _, where = authority.rpartition("@")
        hosts = where.split(",")
        found = [HOST_AND_PORT.fullmatch(host) for host in hosts]
        has_hosts = all(one and int(one["port"] or 0) <= MAXIMUM_PORT for one in found)
        # A slash or a question mark in a password ends the part that has the hosts.
        if re.search(r"[#\[\]\s]", who) or ("@" in rest[len(authority) :] and not has_hosts):
            raise ValueError(
                "has a user or a password with characters to be percent-encoded, / as %2F say"
            )
        if not has_hosts:
            raise ValueError("has a host or a port that is not valid")
        for name, values in PARAMETERS_WITH_VALUES.items():
            if not values.issuperset(re.findall(rf"[?&]{name}=([^&]*)", rest)):
                raise ValueError(f"has a {name} that is none of {', '.join(sorted(values))}")
        if "connect_timeout=" in rest:
            raise ValueError("holds connect_timeout; set DATABASE_CONNECT_TIMEOUT in its place")
        return SecretStr("postgresql://" + rest)

    @field_validator("secret_key_fallback")
    @classmethod
    def _another_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        key = value.get_secret_value() if value else ""
        if key and info.data.get("environment") is Environment.PRODUCTION:
            _check_secret_of_production(key)
        return SecretStr(key) if key else None

    @field_validator("redis_url")
    @classmethod
    def _address_of_a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        url = value.get_secret_value().strip() if value else ""
        if not url:
            return None
        address = REDIS_URL.fullmatch(url)
        if address is None or int(address["port"] or 0) > MAXIMUM_PORT:
            raise ValueError(
                "must be an address such as redis://:password@host:6379/0, with the password "
                "percent-encoded and without a query"
            )
        return SecretStr(url)

    @field_validator("secret_key")
    @classmethod
    def _key_of_its_own(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        key = value.get_secret_value()
        environment = info.data.get("environment")
        if environment is Environment.PRODUCTION:
            _check_secret_of_production(key)
        elif not key and environment is Environment.DEVELOPMENT and "data_dir" in info.data:
            return SecretStr(_kept_secret(info.data["data_dir"]))
        elif not key:
            return SecretStr(secrets.token_hex(32))
        return value

    @field_validator("password_min_length")
    @classmethod
    def _long_enough_for_production(cls, value: int, info: ValidationInfo) -> int:
        in_production = info.data.get("environment") is Environment.PRODUCTION
        if in_production and value < MINIMUM_PRODUCTION_PASSWORD_LENGTH:
            raise ValueError(f"must be at least {MINIMUM_PRODUCTION_PASSWORD_LENGTH} in production")
        return value


def _check_secret_of_production(key: str) -> None:
    hint = "make one with: openssl rand -hex 32"
    if not key:
        raise ValueError(f"is required in production; {hint}")
    if len(key) < MINIMUM_SECRET_KEY_LENGTH:
        raise ValueError(f"must have at least {MINIMUM_SECRET_KEY_LENGTH} characters; {hint}")
    if PLACEHOLDER.search(key) or len(set(key)) < MINIMUM_SECRET_KEY_VARIETY:
        raise ValueError(f"is a placeholder, not a secret; {hint}")


def _kept_secret(data_dir: Path) -> str:
    """The development secret beside the embedded database: made once, then read."""
    path = data_dir / "secret_key"
    data_dir.mkdir(parents=True, exist_ok=True)
    candidate = path.with_name(f".secret_key.{os.getpid()}")
    if not path.exists():
        descriptor = os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            # A link, not a rename: of two first starts at once, both must read the same secret.
            os.link(candidate, path)
        except FileExistsError:
            pass
        except OSError as error:
            # A full disk names no file.
            error.filename = error.filename or str(path)
            raise
        finally:
            candidate.unlink()
    return path.read_text(encoding="ascii").strip()


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` win over the environment, which wins over `.env`.

    Raises `InvalidSettings` with every fault at once and none of the offending values, but for a
    path that cannot be used.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        faults = [
            f"  {str(fault['loc'][0]).upper()} "
            + CLEARER_WORDS.get(fault["type"], fault["msg"])
            .removeprefix("Value error, ")
            .replace("Input should be", "must be")
            for fault in error.errors(include_input=False, include_url=False)
            # Defaults that depend on another setting are not at fault when that one is.
            if fault["type"] != "default_factory_not_called"
        ]
        # Several items of one list may have the same fault.
        raise InvalidSettings(list(dict.fromkeys(faults))) from None
    except OSError as error:
        fault = (
            f".env cannot be read: {error.strerror}"
            if error.filename in {None, ".env"}
            else f"DATA_DIR cannot be used: {error.strerror} ({error.filename})"
        )
        raise InvalidSettings([f"  {fault}"]) from None
    except UnicodeDecodeError:
        raise InvalidSettings(["  .env is not in UTF-8"]) from None
