import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    pairs = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line]
    return [(name, argument) for name, argument in pairs]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    start = max(index for index, (name, _) in enumerate(every) if name == "FROM")
    return every[start:]


def let_through() -> set[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def test_the_image_runs_a_python_that_the_project_supports() -> None:
    (default,) = [argument for name, argument in instructions() if name == "ARG"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    version = default.removeprefix("PYTHON_VERSION=")
    assert f"Programming Language :: Python :: {version}" in classifiers


def test_every_stage_is_built_on_the_same_pinned_image() -> None:
    bases = {argument.split()[0] for name, argument in instructions() if name == "FROM"}
    assert bases == {"python:${PYTHON_VERSION}-slim"}


def test_the_image_runs_as_a_user_with_a_number_that_is_not_roots() -> None:
    users = [argument for name, argument in last_stage() if name == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


def test_the_last_stage_installs_nothing_from_an_index() -> None:
    commands = [argument for name, argument in last_stage() if name == "RUN"]
    assert not [command for command in commands if re.search(r"\b(pip|apt-get|curl)\b", command)]


def test_packages_are_installed_by_their_hashes_and_as_wheels() -> None:
    commands = [argument for name, argument in instructions() if name == "RUN"]
    from_locks = [
        step
        for command in commands
        for step in command.split("&&")
        if re.search(r"\bpip\b.* install\b.*--requirement", step)
    ]
    assert from_locks
    for step in from_locks:
        assert "--require-hashes" in step
        assert "--only-binary :all:" in step


def test_the_image_is_checked_for_health_without_extra_programs() -> None:
    (check,) = [argument for name, argument in last_stage() if name == "HEALTHCHECK"]
    assert "/health" in check
    assert "curl" not in check
    assert "wget" not in check


def test_only_what_the_build_copies_reaches_it() -> None:
    copied = {
        source.removeprefix("/tmp/")  # noqa: S108 - a path in the image
        for name, argument in instructions()
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert let_through() == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_api_starts_once_the_database_is_healthy_and_migrated() -> None:
    assert services()["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services()["api"]["depends_on"] == {
        "database": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert services()["database"]["healthcheck"]["test"]


def test_the_secrets_of_compose_are_required_and_have_no_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for secret in ("POSTGRES_PASSWORD", "SECRET_KEY"):
        uses = re.findall(rf"\$\{{{secret}\b([^}}]*)\}}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)


def test_the_containers_of_the_service_can_change_nothing_but_their_scratch_space() -> None:
    for name in ("api", "migrate"):
        service = services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["environment"]["ENVIRONMENT"] == "production"


def test_the_database_keeps_its_data_in_a_volume_and_is_not_published() -> None:
    database = services()["database"]
    assert database["volumes"] == ["database:/var/lib/postgresql"]
    assert "ports" not in database


def started_by(profile: str) -> dict[str, Any]:
    """The services that are started only with this profile."""
    return {name: one for name, one in services().items() if one.get("profiles") == [profile]}


def test_dashboards_start_only_when_asked_for_and_show_themselves_to_this_machine_alone() -> None:
    extra = started_by("observability")

    assert extra.keys() == {"prometheus", "grafana"}
    for service in extra.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert "admin" not in str(extra).lower().replace("initial_admin_creation", "")


def test_dashboards_are_given_the_files_of_this_repository() -> None:
    mounted = {
        source: target
        for service in services().values()
        for source, target, *_ in (text.split(":") for text in service.get("volumes", ()))
        if source.startswith(".")
    }
    configs = {
        name: yaml.safe_load(file["content"])
        for name, file in compose()["configs"].items()
        if name.startswith("grafana-")
    }

    assert all((ROOT / source).exists() for source in mounted)
    configuration = Path(services()["prometheus"]["command"][0].partition("=")[2])
    assert (ROOT / "app" / "observability" / configuration.name).is_file()
    assert mounted["./app/observability"] == str(configuration.parent)
    assert {use["source"] for use in services()["grafana"]["configs"]} == configs.keys()
    (source,) = configs["grafana-datasources"]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = configs["grafana-dashboards"]["providers"]
    assert Path(mounted["./app/observability/dashboard.json"]).parent == Path(
        provider["options"]["path"]
    )


def test_prometheus_asks_the_service_of_compose() -> None:
    path = ROOT / "app" / "observability" / "prometheus.yaml"
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]

    assert job["job_name"] == "taskflow"
    assert job["static_configs"] == [
        {"targets": [f"api:{services()['api']['environment']['PORT']}"]}
    ]


def test_what_several_machines_need_starts_only_when_asked_for_and_is_not_published() -> None:
    extra = {name: started_by(name) for name in ("proxy", "pgbouncer", "redis")}

    assert [set(found) for found in extra.values()] == [
        {"node2", "haproxy"},
        {"pgbouncer"},
        {"redis"},
    ]
    together = {name: one for found in extra.values() for name, one in found.items()}
    for name, service in together.items():
        assert service["cap_drop"] == ["ALL"]
        assert service.get("read_only", False) == (name != "pgbouncer")
        assert service["security_opt"] == ["no-new-privileges:true"]
        image = service.get("image", "taskflow")
        assert image == "taskflow" or re.search(r":\d+\.\d+\.\d+$", image)
        assert bool(service.get("ports")) == (name == "haproxy")
    assert together["haproxy"]["ports"] == ["${HOST:-127.0.0.1}:${PROXY_PORT:-8080}:8080"]


def test_compose_can_copy_configs_into_their_containers_whose_users_can_read_them() -> None:
    taking = [service for service in services().values() if "configs" in service]
    uses = [use for service in taking for use in service["configs"]]

    assert {use["source"] for use in uses} == compose()["configs"].keys()
    assert not any(service.get("read_only") for service in taking)
    assert {use["mode"] for use in uses} == {0o444}


def test_the_proxy_and_the_pooler_of_compose_lead_to_its_nodes_and_its_database() -> None:
    folder = ROOT / "app" / "deployment"
    mounted = [
        volume.split(":")[0] for one in services().values() for volume in one.get("volumes", ())
    ]
    nodes = {
        f"{alias}:8000"
        for service in services().values()
        for alias in service.get("networks", {}).get("default", {}).get("aliases", ())
    }
    pooler = (folder / "pgbouncer.ini").read_text()
    (users,) = services()["pgbouncer"]["configs"]

    assert {"./app/deployment/haproxy.cfg", "./app/deployment/pgbouncer.ini"} <= set(mounted)
    for name in ("haproxy.cfg", "nginx.conf"):
        used = set(re.findall(r"server (?:node\d )?(node\d:\d+)", (folder / name).read_text()))
        assert used == nodes
    assert "host=database port=5432 dbname=taskflow" in pooler
    assert f"auth_file = {users['target']}" in pooler
    # What no session keeps does not disturb a migration, which has the whole time it needs.
    assert "database/taskflow" in services()["migrate"]["environment"]["DATABASE_URL"]
