"""Settings: their defaults, their forms, and faults told in words and all at once."""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from app.core.settings import CHECKOUT, Environment, InvalidSettings, Settings, load_settings

GOOD_KEY = "0123456789abcdefghijklmnopqrstuvwxyz"
GOOD_URL = "postgresql://taskflow:hunter2@db.internal/taskflow"


def production(**overrides: Any) -> Settings:
    return load_settings(
        **{
            "environment": "production",
            "database_url": GOOD_URL,
            "secret_key": GOOD_KEY,
            **overrides,
        }
    )


def faults(**overrides: Any) -> str:
    with pytest.raises(InvalidSettings) as caught:
        production(**overrides)
    return str(caught.value)


def test_development_needs_no_setting_at_all(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)

    assert settings.environment is Environment.DEVELOPMENT
    assert settings.database_url is None
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.log_format, settings.password_min_length) == ("console", 6)
    assert settings.login_token_ttl == 86_400


def test_each_checkout_has_a_data_folder_of_its_own() -> None:
    folder = Settings.model_fields["data_dir"].get_default(call_default_factory=True)

    if os.geteuid() == 0:
        # PostgreSQL runs as nobody then, who cannot look into a private checkout.
        assert folder.parent == Path("/var/lib/taskflow")
    else:
        assert folder == CHECKOUT / ".taskflow"


def test_the_development_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = load_settings(data_dir=tmp_path / "new").secret_key.get_secret_value()
    second = load_settings(data_dir=tmp_path / "new").secret_key.get_secret_value()

    assert first == second
    assert len(first) == 64
    mode = (tmp_path / "new" / "secret_key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert load_settings(data_dir=tmp_path / "other").secret_key.get_secret_value() != first


def test_a_data_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match="DATA_DIR cannot be used") as refusal:
        load_settings(data_dir=tmp_path / "file" / "below")
    assert str(tmp_path / "file" / "below") in str(refusal.value)


def test_a_full_disk_is_told_of_the_data_folder_and_leaves_nothing_there(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch("app.core.settings.secrets.token_hex", side_effect=full),
        pytest.raises(InvalidSettings, match="DATA_DIR cannot be used: No space left on device"),
    ):
        load_settings(data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["HOST", "DATA_DIR"])
def test_what_may_not_be_empty_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(InvalidSettings, match=f"  {name} must not be empty"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("METRICS_ENABLED", "must be true or false"),
        ("WORKERS", "must be an integer"),
        ("SHUTDOWN_DELAY", "must be a number"),
    ],
)
def test_a_value_of_another_type_is_told_which_one_is_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(InvalidSettings) as refusal:
        load_settings(environment="testing")
    assert refusal.value.faults == [f"  {name} {said}"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads a file of Linux that cannot be read")
def test_an_env_file_that_cannot_be_read_is_told_by_its_name() -> None:
    with pytest.raises(InvalidSettings, match=r"\.env cannot be read"):
        load_settings(_env_file="/proc/self/mem")


def test_testing_makes_a_secret_of_its_own() -> None:
    settings = load_settings(environment="testing")

    assert len(settings.secret_key.get_secret_value()) == 64


def test_production_has_its_own_defaults() -> None:
    settings = production()

    assert (settings.log_format, settings.password_min_length) == ("json", 12)


def test_production_names_every_fault_at_once() -> None:
    message = faults(
        database_url=None,
        secret_key="",
        port="eighty",
        workers=0,
        log_level="chatty",
        password_min_length=7,
    )

    for name in (
        "DATABASE_URL",
        "SECRET_KEY",
        "PORT",
        "WORKERS",
        "LOG_LEVEL",
        "PASSWORD_MIN_LENGTH",
    ):
        assert f"\n  {name} " in message, name
    assert len(message.splitlines()) == 7


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "is required in production"),
        ("short", "at least 32 characters"),
        ("x" * 31, "at least 32 characters"),
        ("x" * 64, "placeholder"),
        ("change-me-change-me-change-me-change-me", "placeholder"),
        ("your-secret-key-goes-right-here-0123456789", "placeholder"),
    ],
)
def test_production_refuses_a_secret_that_is_none(key: str, why: str) -> None:
    message = faults(secret_key=key)

    assert "SECRET_KEY" in message
    assert why in message
    assert "openssl rand -hex 32" in message


@pytest.mark.parametrize(
    "url",
    ["mysql://db/taskflow", "postgresql+psycopg://db/taskflow", "sqlite:///x", "db.internal:5432"],
)
def test_only_postgresql_over_asyncpg_is_a_database(url: str) -> None:
    assert "DATABASE_URL must start with postgresql://" in faults(database_url=url)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("u:hunter2@h:abc/x", "a host or a port that is not valid"),
        ("u:hunter2@[::1/x", "a host or a port that is not valid"),
        ("u:hunter2#x@h/x", "a user or a password with characters to be percent-encoded"),
        ("u:hunter2/x@h/x", "characters to be percent-encoded, / as %2F say"),
        ("u:hunter2?x@h/x", "characters to be percent-encoded"),
        ("u:hunter2[x@h/x", "a user or a password with characters to be percent-encoded"),
        ("u:hunter2@h,i:99999/x", "a host or a port that is not valid"),
        ("u:hunter2@h/x?sslmode=secure", "a sslmode that is none of allow, disable, prefer"),
        ("u:hunter2@h/x?a=b&target_session_attrs=best", "a target_session_attrs that is none of"),
        ("u:hunter2@h/x?connect_timeout=3", "set DATABASE_CONNECT_TIMEOUT in its place"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_in_words(rest: str, why: str) -> None:
    message = faults(database_url=f"postgresql://{rest}")

    assert "DATABASE_URL" in message
    assert why in message
    assert "hunter2" not in message


@pytest.mark.parametrize("address", ["h", "h:5432", "[::1]:5432", "a:1,b:2", "127.0.0.1", ""])
def test_hosts_may_be_names_addresses_and_several(address: str) -> None:
    settings = production(database_url=f"postgresql://u:p%40ss@{address}/x")

    assert settings.required_database_url == f"postgresql://u:p%40ss@{address}/x"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_form_of_the_address_is_rewritten_for_asyncpg(scheme: str) -> None:
    settings = production(database_url=f"{scheme}://u:p@db/taskflow?sslmode=require")

    assert settings.required_database_url == "postgresql://u:p@db/taskflow?sslmode=require"


def test_no_fault_and_no_repr_holds_a_secret() -> None:
    message = faults(database_url="mysql://root:hunter2@db", secret_key="hunter2" * 5)
    assert "hunter2" not in message

    shown = repr(production()) + str(production())
    assert "hunter2" not in shown
    assert GOOD_KEY not in shown


def test_the_environment_and_the_env_file_are_read_in_this_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env_file = tmp_path / "settings.env"
    env_file.write_text("PORT=9001\nHOST=0.0.0.0\nUNRELATED=1\n")
    monkeypatch.setenv("PORT", "9002")
    settings = load_settings(_env_file=env_file, environment="testing")

    assert (settings.port, settings.host) == (9002, "0.0.0.0")


def test_without_an_address_what_needs_one_says_so() -> None:
    with pytest.raises(InvalidSettings, match="DATABASE_URL is not set"):
        _ = load_settings(environment="testing").required_database_url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "shop.example.com"),
        ("CORS_ORIGINS", "https://shop.example.com/"),
        ("CORS_ORIGINS", "https://ok.example.com,ftp://x"),
        ("TRUSTED_PROXIES", "localhost"),
        ("TRUSTED_PROXIES", "any*"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("RATE_LIMIT_API", "many"),
        ("RATE_LIMIT_LOGIN", "ten"),
        ("RATE_LIMIT_API", "200/minute; 5/second"),
        ("RATE_LIMIT_API", "0/hour"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://host?socket_timeout=99"),
        ("REDIS_URL", "redis://:pass#word@host"),
        ("REDIS_URL", "redis://host:99999"),
        ("REDIS_URL", "redis:///0"),
        ("REDIS_URL", "redis://host:port"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "testing")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refusal:
        load_settings()
    (fault,) = refusal.value.faults
    assert fault.startswith(f"  {name} ")
    assert value not in fault
