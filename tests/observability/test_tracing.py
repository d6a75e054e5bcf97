"""Traces: off unless OTEL_* variables ask for them, else down to the statement, without values."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from app.core import tracing
from app.core.settings import InvalidSettings
from tests.conftest import NewDatabase
from tests.observability.collector import Collector, Span, running_collector
from tests.support import (
    CLEAN_ENVIRONMENT,
    SECRET_KEY,
    blocking_client,
    running_service,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
PASSWORD = "a-password-nobody-knows"


@dataclass
class Traced:
    """What a traced service sent to its collector and wrote to its log, and what it was told."""

    collector: Collector
    log: list[dict[str, Any]]
    secrets: list[str]

    def request(self, request_id: str) -> Span:
        (span,) = [
            span
            for span in self.collector.spans
            if span.attributes.get("taskflow.request_id") == request_id
        ]
        return span

    def statements(self, request_id: str) -> list[Span]:
        """The spans within that of a request."""
        parent = self.request(request_id)
        return [span for span in self.collector.spans if span.parent_id == parent.span_id]


@pytest.fixture(scope="module")
def traced(new_database: NewDatabase) -> Iterator[Traced]:
    """A story told to a traced service, which has ended since."""
    url = new_database()
    with (
        running_collector() as collector,
        running_service(url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as service,
        blocking_client(service.base_url) as client,
    ):
        name = {"username": "traced", "email": "traced@example.com"}
        client.post("/api/v1/users", json=name | {"password": PASSWORD})
        again = name | {"password": PASSWORD}
        client.post("/api/v1/users", json=again, headers={"X-Request-ID": "taken"})
        form = {"grant_type": "password", "username": "traced", "password": PASSWORD}
        login = client.post("/api/v1/auth/token", data=form, headers={"X-Request-ID": "login"})
        token = login.json()["access_token"]
        client.post("/api/v1/auth/token", data={**form, "password": "wrong-password"})
        client.headers["Authorization"] = f"Bearer {token}"
        key = client.post("/api/v1/api-keys", json={"name": "k", "scopes": ["tasks:read"]})
        task = {"title": "private-title", "metadata": {"private-member": "private-value"}}
        headers = {"X-Request-ID": "create", **TRACEPARENT}
        created = client.post("/api/v1/tasks", json=task, headers=headers).json()["data"]
        path = f"/api/v1/tasks/{created['id']}"
        client.patch(path, json={"title": "private-change"}, headers={"X-Request-ID": "patch"})
        client.get(
            "/api/v1/tasks",
            params={"q": "private-words", "tag": "private-tag"},
            headers={"X-Request-ID": "search"},
        )
        client.get(f"/api/v1/tasks?private-name=1&{token}", headers={"X-Request-ID": "refused"})
        batch = {"operations": [{"op": "create", "task": {"title": "private-batch"}}]}
        client.post("/api/v1/tasks/batch", json=batch, headers={"X-Request-ID": "batch"})
        client.get("/nowhere", headers={"X-Request-ID": "nowhere", "traceparent": "00-junk"})
        client.request("PROPFIND", "/health/x", headers={"X-Request-ID": "brew"})
        unsampled = f"00-{TRACE_ID}-{PARENT_ID}-00"
        client.get(path, headers={"X-Request-ID": "unsampled", "traceparent": unsampled})
        client.get("/health")
        client.get("/metrics")
        # The spans that are not sent yet are sent at the end.
        service.stop()
        log = [json.loads(line) for line in service.output().splitlines()]
        secrets = [token, key.json()["data"]["key"], SECRET_KEY, PASSWORD, "wrong-password"]
        if database_password := urlsplit(url).password:
            secrets.append(database_password)
        yield Traced(collector, log, secrets)


def test_a_request_is_a_span_with_its_template_and_its_statements_are_within(
    traced: Traced,
) -> None:
    request = traced.request("patch")

    assert request.name == "PATCH /api/v1/tasks/{task_id}"
    assert request.kind == Proto.SPAN_KIND_SERVER
    assert request.attributes["http.route"] == "/api/v1/tasks/{task_id}"
    assert request.attributes["http.response.status_code"] == 200
    assert request.resource["service.name"] == "taskflow"
    assert request.resource["service.version"]
    (statement,) = [s for s in traced.statements("patch") if s.name.startswith("UPDATE")]
    assert statement.name == "UPDATE tasks"
    assert statement.kind == Proto.SPAN_KIND_CLIENT
    assert statement.trace_id == request.trace_id
    assert statement.attributes["db.system.name"] == "postgresql"
    assert statement.attributes["db.operation.name"] == "UPDATE"
    assert "$1" in statement.attributes["db.query.text"]
    assert traced.collector.paths == {"/v1/traces"}


def test_transactions_show_their_beginning_and_their_commit(traced: Traced) -> None:
    names = [span.name.split()[0] for span in traced.statements("batch")]

    assert names.index("BEGIN") < names.index("INSERT") < names.index("COMMIT")


def test_the_callers_trace_goes_on(traced: Traced) -> None:
    request = traced.request("create")

    assert (request.trace_id, request.parent_id) == (TRACE_ID, PARENT_ID)
    assert {span.trace_id for span in traced.statements("create")} == {TRACE_ID}


def test_a_caller_who_does_not_trace_is_not_traced(traced: Traced) -> None:
    ids = {span.attributes.get("taskflow.request_id") for span in traced.collector.spans}

    assert "unsampled" not in ids
    assert [span for span in traced.collector.spans if span.parent_id == PARENT_ID] == [
        traced.request("create")
    ]


def test_a_parent_that_is_no_such_header_begins_a_trace(traced: Traced) -> None:
    assert traced.request("nowhere").parent_id == ""


def test_unknown_paths_and_methods_name_no_spans(traced: Traced) -> None:
    assert traced.request("nowhere").name == "GET"
    assert traced.request("brew").name == "HTTP"
    assert traced.request("brew").attributes["http.request.method"] == "_OTHER"


def test_probes_leave_no_spans(traced: Traced) -> None:
    paths = {span.attributes.get("url.path") for span in traced.collector.spans}

    assert not paths & {"/health", "/health/ready", "/metrics"}
    assert all(
        span.parent_id for span in traced.collector.spans if "db.system.name" in span.attributes
    )


def test_spans_hold_no_values_of_queries_statements_or_credentials(traced: Traced) -> None:
    for secret in traced.secrets:
        assert secret.encode() not in traced.collector.received
    assert b"private" not in traced.collector.received
    assert b"argon2" not in traced.collector.received
    assert b"traced@example.com" not in traced.collector.received
    assert traced.request("search").attributes["url.query"] == "REDACTED"
    assert traced.request("refused").attributes["url.query"] == "REDACTED"
    assert not any(span.events for span in traced.collector.spans)


def test_each_log_line_of_a_traced_request_has_its_ids(traced: Traced) -> None:
    lines = [line for line in traced.log if line.get("request_id") == "login"]

    assert {line["event"] for line in lines} == {"login", "request"}
    span = traced.request("login")
    assert {(line["trace_id"], line["span_id"]) for line in lines} == {
        (span.trace_id, span.span_id)
    }
    (unsampled,) = [line for line in traced.log if line.get("request_id") == "unsampled"]
    assert unsampled["trace_id"] == TRACE_ID


def test_errors_of_statements_are_marked_without_their_text(traced: Traced) -> None:
    assert {span.status for span in traced.statements("create")} == {Status.STATUS_CODE_UNSET}
    (failed,) = [s for s in traced.statements("taken") if s.status == Status.STATUS_CODE_ERROR]
    assert failed.name == "INSERT users"
    assert failed.attributes["error.type"] == "UniqueViolationError"
    assert failed.attributes["db.response.status_code"] == "23505"
    # What a client has done wrong is no error of the server.
    assert traced.request("taken").status == Status.STATUS_CODE_UNSET
    assert traced.request("taken").attributes["http.response.status_code"] == 409


def test_without_the_variables_nothing_of_the_sdk_is_imported() -> None:
    program = (
        "import sys\n"
        "from app.core.settings import load_settings\n"
        "from app.main import create_app\n"
        "create_app(load_settings(environment='testing', database_url='postgresql://x/y'))\n"
        "print([name for name in sys.modules if name.startswith(\n"
        "    ('opentelemetry.sdk', 'opentelemetry.exporter', 'google.protobuf', 'requests'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=CLEAN_ENVIRONMENT | {"OTEL_SERVICE_NAME": "alone, this asks for nothing"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("variables", "requested"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_the_standard_variables_switch_traces_on_and_off(
    monkeypatch: pytest.MonkeyPatch, *, variables: dict[str, str], requested: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert tracing.is_requested() is requested


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_what_is_not_supported_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings, match=f"{name} must be"):
        tracing.start_tracing()


def test_a_collector_that_is_away_holds_nothing_up(new_database: NewDatabase) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with running_service(new_database(), **environment) as service:
        for _ in range(20):
            with blocking_client(service.base_url) as client:
                assert client.get("/nowhere").status_code == 404
        assert service.stop() == 0
