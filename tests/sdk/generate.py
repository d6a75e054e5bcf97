"""Generates the six clients from the document: `python -m tests.sdk.generate [folder]`.

What it takes is pinned in `requirements.txt` and `package-lock.json` and kept in `build/tools`, so
that a second run downloads nothing. A generator's warning is a failure.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.sdk.tools import (
    NODE,
    PYTHON,
    ROOT,
    ToolFailed,
    install_node,
    install_python,
    node_program,
    run,
)

# What openapi-generator says of itself and its own names, and never of the document.
NOTICES = re.compile(
    r"OpenAPI 3\.1 support is still in beta"
    # How it takes an `additionalProperties: false` in 3.1.
    r"|Failed to get the schema name: null"
    # It makes names of media types, which it then does not use.
    r"|(Application|Text)\S* cannot be used as a model name"
    r"|cannot be used as a(n)? enum variant name"
    r"|serde_json::value cannot be used as a field/variable name"
)
MAVEN_NAME = "example.taskflow.client"
# The options of openapi-generator: names, and what makes a client that lasts. With an object for
# its parameters a call stays valid when the operation gets more of them.
GENERATORS: dict[str, dict[str, Any]] = {
    "go": {
        "gitHost": "taskflow.example",
        "gitUserId": "sdk",
        "gitRepoId": "go",
        "additionalProperties": {
            "packageName": "taskflow",
            "enumClassPrefix": True,
            "generateInterfaces": True,
            "withGoMod": True,
        },
    },
    "java": {
        "library": "native",
        "invokerPackage": MAVEN_NAME,
        "apiPackage": f"{MAVEN_NAME}.api",
        "modelPackage": f"{MAVEN_NAME}.model",
        "groupId": "example.taskflow",
        "artifactId": "taskflow-client",
        "additionalProperties": {
            "hideGenerationTimestamp": True,
            "useJakartaEe": True,
            "useSingleRequestParameter": True,
        },
    },
    "rust": {
        "library": "reqwest",
        "additionalProperties": {
            "packageName": "taskflow-client",
            "useSingleRequestParameter": True,
        },
    },
}
USAGE = """\
python        pip install {folder}/python
              from taskflow_client import AuthenticatedClient
typescript    copy {folder}/typescript/client-hey into your sources; it needs nothing else
              import {{ listTasks }} from "./client-hey/index.js"
              or, with openapi-fetch: import type {{ paths }} from "./schema.js"
go            go mod edit -replace taskflow.example/sdk/go={folder}/go
              import "taskflow.example/sdk/go"
java          mvn install -f {folder}/java/pom.xml
              import example.taskflow.client.api.TasksApi;
rust          cargo add --path {folder}/rust
              use taskflow_client::apis::tasks_api;
"""


def refuse_warnings(output: str) -> None:
    """Raise `ToolFailed` for a warning that is about the document."""
    told = [line for line in output.splitlines() if re.search(r"WARN|ERROR|⚠|[Ww]arning", line)]
    if found := [line for line in told if not NOTICES.search(line)]:
        raise ToolFailed("\n".join(found))


def generate_python(document: Path, folder: Path) -> None:
    install_python()
    configuration = folder / "openapi-python-client.json"
    names = {"project_name_override": "taskflow-client", "package_name_override": "taskflow_client"}
    # Its own ruff would put the code into an order that makes no difference.
    configuration.write_text(json.dumps({**names, "post_hooks": []}))
    run(
        PYTHON.with_name("openapi-python-client"),
        *("generate", "--fail-on-warning", "--path", document, "--config", configuration),
        *("--output-path", folder / "python", "--overwrite"),
    )
    configuration.unlink()


def generate_typescript(document: Path, folder: Path) -> None:
    install_node()
    there = folder / "typescript"
    configuration = NODE / "openapi-ts.config.mjs"
    # Node.js and strict settings of TypeScript want the `.js`.
    output = {"path": str(there / "client-hey"), "importFileExtension": ".js"}
    options = {"input": str(document), "output": output}
    configuration.write_text(f"export default {json.dumps(options)};")
    # A field with a default may be left out, which the other way round is the standard for types.
    types = (document, "-o", there / "schema.ts", "--default-non-nullable=false")
    refuse_warnings(
        run(node_program("openapi-ts"), "--file", configuration, cwd=NODE)
        + run(node_program("openapi-typescript"), *types, cwd=NODE)
    )


def generate_compiled(document: Path, folder: Path, *languages: str) -> None:
    """The clients that openapi-generator makes, all in one Java process."""
    install_python()
    configurations = []
    for language in languages:
        path = folder / f"{language}.json"
        options = {
            "generatorName": language,
            "inputSpec": str(document),
            "outputDir": str(folder / language),
            **GENERATORS[language],
        }
        path.write_text(json.dumps(options))
        configurations.append(path)
    (jar,) = PYTHON.parent.parent.glob("lib/*/site-packages/openapi_generator_cli/*.jar")
    quick = ("java", "-XX:TieredStopAtLevel=1", "-jar", jar, "batch", "--threads=1", "--fail-fast")
    refuse_warnings(run(*quick, *configurations))
    for path in configurations:
        path.unlink()


def write_document(path: Path) -> None:
    """Put the live document at `path`, as the command line prints it."""
    path.write_text(run(Path(sys.executable).with_name("taskflow"), "openapi"))


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "sdk").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "openapi.json"
    try:
        write_document(document)
        generate_python(document, folder)
        generate_typescript(document, folder)
        generate_compiled(document, folder, "go", "java", "rust")
    except ToolFailed as error:
        sys.exit(str(error))
    sys.stdout.write(USAGE.format(folder=folder))


if __name__ == "__main__":
    main()
