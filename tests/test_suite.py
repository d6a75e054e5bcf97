"""What holds for the tests themselves."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LOADING_CERTIFICATES = {
    *("httpx.AsyncClient", "httpx.Client"),
    *("httpx.get", "httpx.head", "httpx.patch", "httpx.post", "httpx.put", "httpx.delete"),
}


def _asserts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1].startswith(("assert_", "raises"))
        )
        for node in ast.walk(function)
    )


def test_every_test_asserts_and_none_sleeps_or_reads_certificates() -> None:
    found = 0
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
                "test_"
            ):
                found += 1
                assert _asserts(node), f"{path.name}: {node.name} asserts nothing"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"time.sleep", "asyncio.sleep"}, f"{path.name} sleeps"
                assert called not in LOADING_CERTIFICATES or any(
                    keyword.arg == "transport" for keyword in node.keywords
                ), f"{path.name}: {called} reads all certificates, which tests.support does once"
    assert found > 100
