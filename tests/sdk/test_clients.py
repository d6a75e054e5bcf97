"""Each generated client compiles under strict settings, and leads through the same story.

The stories stand in the folders of the languages: register, log in, go on with an API key, create
safely, page by cursor, patch under a condition, meet a typed 409, 412 and 400, run a batch, look
into the trash and restore from it, put a task by its external id twice, export it.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NewDatabase
from tests.sdk import generate
from tests.sdk.tools import (
    HERE,
    NODE,
    PYTHON,
    TOOLS,
    is_installed,
    mark_installed,
    node_program,
    run,
)
from tests.support import running_service

pytestmark = pytest.mark.sdk
ENDS_WELL = "The story ends well."


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    generate.write_document(path)
    return path


@pytest.fixture(scope="module")
def service_url(new_database: NewDatabase) -> Iterator[str]:
    with running_service(new_database()) as service:
        yield service.base_url


def test_the_python_client(document: Path, service_url: str, tmp_path: Path) -> None:
    generate.generate_python(document, tmp_path)
    client, story = tmp_path / "python", HERE / "python" / "story.py"

    strict = ("--strict", "--config-file=", f"--cache-dir={tmp_path / 'mypy'}")
    mypy = (sys.executable, "-m", "mypy", *strict, "--python-executable", PYTHON)
    run(*mypy, story, MYPYPATH=str(client))

    assert ENDS_WELL in run(PYTHON, story, PYTHONPATH=str(client), TASKFLOW_URL=service_url)


@pytest.fixture(scope="module")
def typescript(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stories in TypeScript beside both generated clients."""
    folder = tmp_path_factory.mktemp("clients")
    there = folder / "typescript"
    shutil.copytree(HERE / "typescript", there)
    generate.generate_typescript(document, folder)
    shutil.copy(NODE / "package.json", there)
    (there / "node_modules").symlink_to(NODE / "node_modules")
    return there


@pytest.mark.node
@pytest.mark.parametrize("story", ["hey", "fetch"])
def test_the_typescript_clients(typescript: Path, service_url: str, story: str) -> None:
    run(node_program("tsc"), "--build", typescript / f"tsconfig.{story}.json")

    built = typescript / "built" / f"{story}.js"
    assert ENDS_WELL in run("node", built, cwd=typescript, TASKFLOW_URL=service_url)


@pytest.mark.go
@pytest.mark.java
def test_the_go_client(document: Path, service_url: str, tmp_path: Path) -> None:
    generate.generate_compiled(document, tmp_path, "go")
    story = tmp_path / "story"
    shutil.copytree(HERE / "go", story)

    run("go", "vet", ".", cwd=tmp_path / "go", GOFLAGS="-mod=mod")
    run("go", "mod", "edit", "-replace=taskflow.example/sdk/go=../go", cwd=story)
    run("go", "vet", ".", cwd=story, GOFLAGS="-mod=mod")
    run("go", "build", "-o", "story", ".", cwd=story, GOFLAGS="-mod=mod")

    assert ENDS_WELL in run(story / "story", "go-client", TASKFLOW_URL=service_url)


@pytest.mark.java
@pytest.mark.maven
def test_the_java_client(document: Path, service_url: str, tmp_path: Path) -> None:
    generate.generate_compiled(document, tmp_path, "java")
    jars = install_jars()
    sources = [*(tmp_path / "java" / "src" / "main").rglob("*.java"), HERE / "java" / "Story.java"]
    # The generated code uses what its library has deprecated, and serialises without versions.
    strict = ("-Xlint:all,-deprecation,-processing,-serial", "-Werror")
    path = f"{jars}/*"

    run("javac", *strict, "-cp", path, "-d", tmp_path / "classes", *sources)

    java = ("java", "-cp", f"{tmp_path / 'classes'}:{path}", "Story", "java-client")
    assert ENDS_WELL in run(*java, TASKFLOW_URL=service_url)


def install_jars() -> Path:
    """What the Java client needs, each with the digest that `jars.sha256` gives."""
    folder, digests = TOOLS / "jars", HERE / "java" / "jars.sha256"
    if not is_installed(folder, digests):
        shutil.rmtree(folder, ignore_errors=True)
        maven = ("mvn", "--batch-mode", "--quiet", "--file", HERE / "java" / "pom.xml")
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        run(*maven, goal, f"-DoutputDirectory={folder}")
        found = {
            f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}"
            for jar in folder.glob("*.jar")
        }
        assert found == set(digests.read_text().splitlines())
        mark_installed(folder, digests)
    return folder


@pytest.mark.clippy
@pytest.mark.rust
@pytest.mark.java
def test_the_rust_client(document: Path, service_url: str, tmp_path: Path) -> None:
    generate.generate_compiled(document, tmp_path, "rust")
    story = tmp_path / "story"
    shutil.copytree(HERE / "rust", story)
    target = TOOLS / "rust"

    strict = {"RUSTFLAGS": "-Dwarnings", "CARGO_TARGET_DIR": str(target)}
    run("cargo", "build", "--quiet", cwd=story, **strict)
    run("cargo", "clippy", "--quiet", cwd=story, **strict)

    program = target / "debug" / "story"
    assert ENDS_WELL in run(program, "rust-client", TASKFLOW_URL=service_url)
