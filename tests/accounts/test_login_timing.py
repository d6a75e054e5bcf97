"""An unknown name and a wrong password take the same time."""

import time
from statistics import median
from uuid import uuid4

import httpx

TRIES = 40
# How far apart the medians may be.
TOLERANCE = 0.15


def test_the_time_of_a_refused_login_does_not_tell_whether_the_name_exists(
    base_url: str,
) -> None:
    name = f"timed-{uuid4().hex[:8]}"
    body = {"username": name, "email": f"{name}@example.com", "password": "correct horse"}
    times: dict[str, list[float]] = {name: [], f"{name}-no": []}
    with httpx.Client(base_url=base_url) as client:
        assert client.post("/api/v1/users", json=body).status_code == 201
        for _ in range(TRIES):
            for guessed, taken in times.items():
                form = {"grant_type": "password", "username": guessed, "password": "wrong"}
                started = time.perf_counter()
                response = client.post("/api/v1/auth/token", data=form)
                taken.append(time.perf_counter() - started)
                assert response.json()["error"] == "invalid_grant"

    known, unknown = (median(taken) for taken in times.values())
    assert abs(known - unknown) < TOLERANCE * max(known, unknown), times
