"""An unknown name, a wrong password and an inactive account take the same time."""

import time
from statistics import median
from uuid import uuid4

import pytest

from tests.conftest import NewDatabase
from tests.support import blocking_client, run_sql, running_service

TRIES = 40
# How far apart the medians may be.
TOLERANCE = 0.15
PASSWORD = "zebra-crossing-at-noon"


@pytest.mark.endurance
def test_the_time_of_a_refused_login_does_not_tell_whether_the_name_exists(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    unlimited = {"RATE_LIMIT_LOGIN": "", "RATE_LIMIT_LOGIN_ADDRESS": ""}
    with (
        running_service(url, **unlimited) as service,
        blocking_client(service.base_url) as client,
    ):
        for name in ("active", "inactive"):
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert client.post("/api/v1/users", json=body).status_code == 201
        run_sql(url, "UPDATE users SET is_active = false WHERE username = 'inactive'")
        guesses = {
            "a wrong password": ("active", "wrong"),
            "an inactive account": ("inactive", PASSWORD),
            "an unknown name": (f"nobody-{uuid4().hex[:8]}", "wrong"),
            "an unknown address": ("nobody@example.com", "wrong"),
        }
        times: dict[str, list[float]] = {guess: [] for guess in guesses}
        for _ in range(TRIES):
            for guess, (name, password) in guesses.items():
                form = {"grant_type": "password", "username": name, "password": password}
                started = time.perf_counter()
                response = client.post("/api/v1/auth/token", data=form)
                times[guess].append(time.perf_counter() - started)
                assert response.json()["error"] == "invalid_grant"
    medians = {guess: median(taken) for guess, taken in times.items()}
    shown = ", ".join(f"{guess} {taken * 1000:.0f} ms" for guess, taken in medians.items())
    print(f"medians of {TRIES}: {shown}")  # noqa: T201 - the figures are what the run is for
    assert max(medians.values()) - min(medians.values()) < TOLERANCE * max(medians.values())
