"""The headers that browsers act on: on every answer, whatever it is; CORS closed unless set."""

from collections.abc import Iterator

import httpx
import pytest

from app.core.settings import Settings
from app.main import create_app
from tests.support import Account, assert_error, http_client, served, service_settings

ORIGIN = "https://app.example.com"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/", 307),
        ("GET", "/docs", 200),
        ("GET", "/docs/assets/swagger-ui.css", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/nowhere%0A", 404),
        ("DELETE", "/health", 405),
        ("GET", "/api/v1/tasks", 401),
        ("POST", "/api/v1/users", 400),
        ("POST", "/api/v1/auth/token", 400),
    ],
)
async def test_every_answer_has_the_security_headers(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == ("private, no-cache" if "ETag" in headers else "no-store")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers.get_list("X-Request-ID")[1:] == []
    assert "Server" not in headers
    assert "Access-Control-Allow-Origin" not in headers
    # Over plain HTTP it must not be there (RFC 6797, section 7.2).
    assert "Strict-Transport-Security" not in headers


async def test_behind_a_trusted_proxy_with_tls_browsers_are_told_to_stay_with_it(
    settings: Settings,
) -> None:
    own = service_settings(settings.required_database_url, trusted_proxies="127.0.0.0/8")
    headers = {"X-Forwarded-Proto": "https"}
    with served(create_app(own)) as url:
        async with http_client(url, headers) as client:
            answer = await client.get("/health")
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


async def test_a_stranger_cannot_claim_tls(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in answer.headers


@pytest.fixture(scope="module")
def cross_origin_url(settings: Settings) -> Iterator[str]:
    own = service_settings(
        settings.required_database_url, cors_origins=f"{ORIGIN},http://[::1]:8080"
    )
    with served(create_app(own)) as url:
        yield url


async def test_a_set_origin_may_read_answers_and_errors_and_their_headers(
    cross_origin_url: str, alice: Account
) -> None:
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {alice.token}"}
    async with http_client(cross_origin_url, headers) as client:
        for path, status in (("/api/v1/tasks", 200), ("/api/v1/tasks/0", 404), ("/nowhere", 404)):
            response = await client.get(path)
            assert response.status_code == status
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Access-Control-Allow-Credentials" not in response.headers
            exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
            assert exposed == {
                "ETag",
                "Link",
                "Location",
                "Retry-After",
                "X-Request-ID",
                "Idempotent-Replayed",
                "RateLimit",
                "RateLimit-Policy",
            }
            assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_preflight_of_a_set_origin_allows_every_method_and_header(
    cross_origin_url: str, method: str
) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,if-match",
    }
    async with http_client(cross_origin_url) as client:
        response = await client.options("/api/v1/tasks", headers=headers)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in response.headers["Access-Control-Allow-Methods"]
    assert "QUERY" not in response.headers["Access-Control-Allow-Methods"]
    assert "idempotency-key" in response.headers["Access-Control-Allow-Headers"]
    assert response.headers["X-Request-ID"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_another_origin_is_allowed_nothing(cross_origin_url: str, alice: Account) -> None:
    headers = {"Origin": "https://evil.example.com", "Authorization": f"Bearer {alice.token}"}
    async with http_client(cross_origin_url, headers) as client:
        answer = await client.get("/api/v1/tasks")
        preflight = await client.options(
            "/api/v1/tasks", headers={"Access-Control-Request-Method": "POST"}
        )
    for response in (answer, preflight):
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_without_origins_set_cors_is_closed(client: httpx.AsyncClient) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    response = await client.options("/api/v1/tasks", headers=headers)
    assert_error(response, 405, "method_not_allowed")
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_star_opens_cors_to_all_and_without_credentials(settings: Settings) -> None:
    own = service_settings(settings.required_database_url, cors_origins="*")
    with served(create_app(own)) as url:
        async with http_client(url, {"Origin": ORIGIN}) as client:
            response = await client.get("/health")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers
