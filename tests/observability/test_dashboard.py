"""The dashboard and the alerts: the real tools read them, and they name only what there is."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.observability.support import Samples

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "app" / "observability"
ALERT_TESTS = Path(__file__).with_name("alerts.test.yaml")
# What Prometheus adds, and what the rules record.
GIVEN = {"up"}
SELECTED = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")


def promtool(*arguments: str | Path, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return document


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.promtool
def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    checked = promtool("check", "config", FOLDER / "prometheus.yaml")

    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


@pytest.mark.promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    tested = promtool("test", "rules", ALERT_TESTS)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    is_silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}

    assert fires == is_silent == {rule["alert"] for rule in rules() if "alert" in rule}


@pytest.mark.promtool
async def test_prometheus_finds_nothing_to_criticize_in_the_metrics(
    client: httpx.AsyncClient,
) -> None:
    await client.get("/health")
    checked = promtool("check", "metrics", text=(await client.get("/metrics")).text)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.promtool
def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    expressions = [
        re.sub(r"\$(__rate_interval)\b", "5m", expr).replace("$", "any")
        for expr in panel_expressions()
    ]
    recorded = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(expressions)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    checked = promtool("check", "rules", file)

    assert len(expressions) > 25
    assert checked.returncode == 0, checked.stderr
    assert f"{len(expressions)} rules found" in checked.stdout


async def test_dashboard_and_alerts_name_only_metrics_labels_and_values_that_there_are(
    client: httpx.AsyncClient,
) -> None:
    await client.get("/api/v1/tasks")
    samples = Samples.of((await client.get("/metrics")).text)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    names = {name for name, _ in samples}
    labels: dict[str, set[str]] = {name: {"job", "instance"} for name in names | GIVEN | recorded}
    for name, pairs in samples:
        labels[name] |= {label for label, _ in pairs}
    expressions = [*panel_expressions(), *(rule["expr"] for rule in rules())]
    used: set[str] = set()
    for expression in expressions:
        for name, selector in SELECTED.findall(expression):
            used.add(name)
            assert name in labels, f"{name} is not in /metrics"
            for label, operator, value in re.findall(r'(\w+)(=~|!~|=|!=)"([^"]*)"', selector):
                assert label in labels[name], f"{name} has no label {label}"
                if operator == "=" and label in {"state", "event", "kind", "limit", "result"}:
                    assert value in samples.values_of(label), value
        # Nothing that looks like a metric stands outside of a selector.
        rest = SELECTED.sub("", expression)
        assert not re.search(r"\b(http_server|db_client|taskflow|process)_\w+_\w+", rest), rest
    assert recorded <= used
    assert {name for name in names if name.startswith("taskflow_")} <= used


def test_alerts_say_what_is_the_matter_and_how_much_it_matters() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["alert"].startswith("Taskflow")
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"].keys() == {"summary", "description"}
            assert rule["for"]


def test_panels_explain_themselves_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_asks_for_nothing_that_a_fresh_grafana_lacks() -> None:
    document = dashboard()
    variables = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(document)))

    assert document["uid"] == "taskflow"
    assert document.get("id") is None
    assert "__inputs" not in document
    assert used == variables == {"datasource", "job", "instance"}
    assert {panel["type"] for panel in panels()} == {"stat", "timeseries"}
