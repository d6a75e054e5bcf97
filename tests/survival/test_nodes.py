"""Several nodes behind a proxy are as one: they share what they must, and one may be lost."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from tests.conftest import NewDatabase
from tests.contract.conformance import conformance
from tests.db.support import eventually, run_sql
from tests.proxies import Redis, haproxy, nginx, pgbouncer
from tests.support import blocking_client, running_service
from tests.survival.nodes import Proxy, behind, failures_of
from tests.survival.writers import NO_ANSWER, Writers

pytestmark = pytest.mark.survival

PROXIES = [
    pytest.param(haproxy, marks=pytest.mark.haproxy, id="haproxy"),
    pytest.param(nginx, marks=pytest.mark.nginx, id="nginx"),
]
WRITERS = 16
PASSWORD = "zebra-crossing-at-noon-1"


def register(client: httpx.Client, name: str) -> None:
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    assert client.post("/api/v1/users", json=body).status_code == 201


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    form = {"grant_type": "password", "username": name, "password": password}
    return client.post("/api/v1/auth/token", data=form)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_node_that_is_killed_under_writers_loses_and_repeats_nothing(
    new_database: NewDatabase, proxy: Proxy
) -> None:
    database_url = new_database()
    with (
        behind(proxy, database_url) as (base_url, nodes),
        Writers(database_url, [base_url], count=WRITERS) as writers,
    ):
        writers.wait_for_writes(100)
        nodes.kill(0)
        writers.wait_for_writes(100)
        nodes.restart(0)
        writers.wait_for_writes(100)
    writers.verify()
    failures = failures_of(writers)
    print(writers.summary())  # noqa: T201 - how many there were is worth knowing
    assert failures.keys() <= {NO_ANSWER, 502, 503}
    # What the node had under way: of each writer one request at the most.
    assert failures.total() <= WRITERS


@pytest.mark.haproxy
def test_nodes_that_are_restarted_in_turns_under_writers_fail_no_request(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    with (
        behind(haproxy, database_url) as (base_url, nodes),
        Writers(database_url, [base_url], count=WRITERS) as writers,
    ):
        for index in (0, 1):
            writers.wait_for_writes(50)
            nodes.restart(index)
        writers.wait_for_writes(50)
    writers.verify()
    assert failures_of(writers).total() == 0, writers.summary()


@pytest.fixture(scope="module", params=PROXIES)
def proxied(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[str]:
    """The URL of a proxy before two nodes that allow few wrong passwords from an address."""
    few = {"RATE_LIMIT_LOGIN_ADDRESS": "3/minute"}
    with behind(request.param, new_database(), **few) as (base_url, _):
        yield base_url


def test_what_is_revoked_through_one_node_is_refused_by_each_on_the_very_next_request(
    proxied: str,
) -> None:
    with blocking_client(proxied) as client:
        register(client, "grace")
        client.headers["Authorization"] = f"Bearer {log_in(client, 'grace').json()['access_token']}"
        body = {"name": "machine", "scopes": ["tasks:read", "tasks:write"]}
        for _ in range(3):
            key = client.post("/api/v1/api-keys", json=body).json()["data"]
            machine = {"Authorization": f"Bearer {key['key']}"}
            # Both nodes remember the key by then.
            statuses = [client.get("/api/v1/tasks", headers=machine).status_code for _ in range(6)]
            assert statuses == [200] * 6
            assert client.delete(f"/api/v1/api-keys/{key['id']}").status_code == 200
            statuses = [client.get("/api/v1/tasks", headers=machine).status_code for _ in range(4)]
            assert statuses == [401] * 4


def test_an_address_is_the_clients_and_not_what_the_client_says_it_is(proxied: str) -> None:
    def statuses(address: str, claims: Iterable[str]) -> list[int]:
        transport = httpx.HTTPTransport(local_address=address)
        with httpx.Client(base_url=proxied, transport=transport) as client:
            return [
                client.post(
                    "/api/v1/auth/token",
                    data={"grant_type": "password", "username": name, "password": "wrong"},
                    headers={"X-Forwarded-For": claim},
                ).status_code
                for name, claim in zip("abcdefghij", claims, strict=False)
            ]

    # Whatever they claim, the fourth wrong password of a node is refused; of another address none.
    claimed = [f"10.0.0.{number}" for number in range(10)]
    assert statuses("127.0.0.2", claimed)[6:] == [429] * 4
    assert statuses("127.0.0.3", ["127.0.0.2"]) == [400]


def test_metrics_are_not_for_the_world(proxied: str) -> None:
    with blocking_client(proxied) as client:
        for path in ("/metrics", "/metrics/", "/metrics?x=1", "/%6detrics"):
            assert client.get(path).status_code == 404
            assert "taskflow" not in client.get(path).text


def test_what_is_long_is_taken_or_refused_in_the_envelope(proxied: str) -> None:
    tags = [f"{number:02}{48 * '𝄞'}" for number in range(20)]
    batch = b" " * (8 * 1024 * 1024 + 1)
    json = {"Content-Type": "application/json"}
    with blocking_client(proxied) as client:
        register(client, "lengthy")
        client.headers["Authorization"] = (
            f"Bearer {log_in(client, 'lengthy').json()['access_token']}"
        )
        found = client.get("/api/v1/tasks", params={"tag": tags})
        refused = client.post("/api/v1/tasks/batch", content=batch, headers=json)

    assert found.status_code == 200
    assert refused.status_code == 413
    assert refused.json()["code"] == "payload_too_large"


class Forgetful(BaseHTTPRequestHandler):
    """A node that is ready, but lets the connection of each new request end without an answer."""

    seen: ClassVar[set[str]] = set()

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.headers.get("X-Request-ID", "")
        if name and name not in self.seen:
            self.seen.add(name)
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def forgetful_nodes() -> Iterator[list[int]]:
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Forgetful))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            ports.append(server.server_port)
        yield ports


@pytest.mark.haproxy
@pytest.mark.parametrize(
    ("method", "path", "header", "is_repeated"),
    [
        ("GET", "/api/v1/tasks", "X-None", True),
        ("POST", "/api/v1/tasks", "Idempotency-Key", True),
        ("POST", "/api/v1/tasks/batch", "Idempotency-Key", True),
        ("PUT", "/api/v1/tasks/external/a", "X-None", True),
        ("POST", "/api/v1/tasks", "X-None", False),
        ("POST", "/api/v1/api-keys", "Idempotency-Key", False),
        ("PATCH", "/api/v1/tasks/1", "Idempotency-Key", False),
        ("PUT", "/api/v1/tasks/external/a", "If-Match", False),
        ("DELETE", "/api/v1/tasks/1", "Idempotency-Key", False),
    ],
)
def test_what_got_no_answer_is_repeated_only_where_that_is_safe(
    method: str, path: str, header: str, *, is_repeated: bool
) -> None:
    with (
        forgetful_nodes() as ports,
        haproxy(ports) as base_url,
        blocking_client(base_url) as client,
    ):
        # Until its first checks are done HAProxy thinks that no node is ready.
        eventually(lambda: client.get("/health").status_code == 200)
        headers = {header: '"1"', "X-Request-ID": f"{method} {path} {header}"}
        assert client.request(method, path, headers=headers).status_code == (
            200 if is_repeated else 502
        )


@pytest.mark.parametrize("proxy", PROXIES)
def test_answers_through_the_proxy_are_as_documented_and_in_one_envelope(
    new_database: NewDatabase, proxy: Proxy
) -> None:
    with behind(proxy, new_database()) as (base_url, nodes), blocking_client(base_url) as client:
        register(client, "grace")
        token = log_in(client, "grace").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        answers = [
            client.post("/api/v1/tasks", json={"title": "Water"}),
            client.get("/api/v1/tasks"),
            client.get("/api/v1/tasks/1"),
            client.get("/api/v1/tasks", headers={"Authorization": "none"}),
        ]
        for answer in answers:
            # Nginx says what it is.
            answer.headers.pop("Server", None)
            assert conformance().faults(answer) == []
        for index in (0, 1):
            nodes.kill(index)
        answer = client.get("/api/v1/tasks")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        body = answer.json()
        assert (body["status"], body["code"]) == ("error", "overloaded")


@pytest.mark.haproxy
@pytest.mark.pgbouncer
def test_a_node_that_is_not_ready_gets_no_requests_unless_none_is(
    new_database: NewDatabase,
) -> None:
    database_url = new_database()
    endless = {"RATE_LIMIT_LOGIN": "", "RATE_LIMIT_LOGIN_ADDRESS": ""}
    with ExitStack() as stack:
        # Node 2 reaches its database by a way that can be cut.
        cut = stack.enter_context(ExitStack())
        url = cut.enter_context(pgbouncer(database_url))
        nodes = [
            stack.enter_context(running_service(database_url, **endless)),
            stack.enter_context(running_service(url, DATABASE_POOLER="transaction", **endless)),
        ]
        ports = [int(node.base_url.rpartition(":")[2]) for node in nodes]
        base_url = stack.enter_context(haproxy(ports))
        client = stack.enter_context(blocking_client(base_url))
        form = {"grant_type": "password", "username": "nobody", "password": "wrong"}

        def statuses() -> list[int]:
            return [client.post("/api/v1/auth/token", data=form).status_code for _ in range(6)]

        assert statuses() == [400] * 6
        cut.close()
        eventually(lambda: statuses() == [400] * 6)
        # With none ready they answer themselves: their words, and that they are alive.
        run_sql(database_url, "ALTER TABLE alembic_version RENAME TO gone")
        eventually(lambda: client.get("/health/ready").status_code == 503)
        eventually(lambda: {400, 503} >= set(statuses()) and 503 in statuses())
        assert client.get("/health").status_code == 200
        run_sql(database_url, "ALTER TABLE gone RENAME TO alembic_version")
        eventually(lambda: statuses() == [400] * 6)


@pytest.mark.haproxy
@pytest.mark.redis
def test_with_a_redis_the_nodes_share_one_budget(new_database: NewDatabase, redis: Redis) -> None:
    limits = {"REDIS_URL": redis.url, "RATE_LIMIT_API": "5/minute"}
    with (
        behind(haproxy, new_database(), **limits) as (base_url, _),
        blocking_client(base_url) as client,
    ):
        register(client, "grace")
        token = log_in(client, "grace").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        statuses = [client.get("/api/v1/tasks").status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
