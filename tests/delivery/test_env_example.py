import re
from pathlib import Path

import pytest

from app.core.settings import Environment, InvalidSettings, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE = ROOT / "compose.yaml"


def shown() -> dict[str, str]:
    """What the example sets, commented out or not."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_every_setting_stands_in_the_example() -> None:
    assert {name.upper() for name in Settings.model_fields} - set(shown()) == set()


def test_the_example_shows_nothing_but_settings_of_the_service_and_of_compose() -> None:
    of_compose = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert of_compose - set(shown()) == set()
    assert set(shown()) - {name.upper() for name in Settings.model_fields} <= of_compose


def test_a_plain_copy_of_the_example_serves_development() -> None:
    settings = load_settings(_env_file=EXAMPLE, environment="testing")
    assert settings.database_url is None
    assert settings.port == 8000


def test_production_refuses_a_plain_copy_of_the_example() -> None:
    with pytest.raises(InvalidSettings) as refusal:
        load_settings(_env_file=EXAMPLE, environment="production")
    assert "SECRET_KEY" in str(refusal.value)
    assert "DATABASE_URL" in str(refusal.value)


def test_every_value_that_the_example_shows_is_accepted(tmp_path: Path) -> None:
    uncommented = tmp_path / "env"
    uncommented.write_text("\n".join(f"{name}={value}" for name, value in shown().items()))
    settings = load_settings(_env_file=uncommented, secret_key="k" * 8, data_dir=tmp_path)
    assert settings.environment is Environment.DEVELOPMENT


def test_the_defaults_that_the_example_shows_are_the_defaults(tmp_path: Path) -> None:
    uncommented = tmp_path / "env"
    values = {
        name: value
        for name, value in shown().items()
        if name not in {"DATABASE_URL", "DATA_DIR", "SECRET_KEY"}
    }
    uncommented.write_text("\n".join(f"{name}={value}" for name, value in values.items()))
    fixed = {"secret_key": "k" * 8, "data_dir": tmp_path}
    assert load_settings(_env_file=uncommented, **fixed) == load_settings(_env_file=None, **fixed)


def test_the_secrets_of_the_example_are_empty() -> None:
    assert shown()["SECRET_KEY"] == ""
    assert shown()["POSTGRES_PASSWORD"] == ""
