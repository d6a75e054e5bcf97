"""The README's main figures of the benchmark are the kept ones, its limits those of the code."""

import json
from pathlib import Path
from typing import Any

from app.accounts.oauth import MAXIMUM_FORM_BYTES
from app.accounts.schemas import MAXIMUM_KEYS
from app.core.pagination import MAXIMUM_PER_PAGE
from app.core.routing import MAXIMUM_BODY_BYTES
from app.tasks import models
from app.tasks.batch.router import BatchRoute
from app.tasks.batch.schemas import MAXIMUM_OPERATIONS
from app.tasks.batch.service import CHARACTERS_ANSWERED
from app.tasks.search import SEARCH_MAX_LENGTH

MEBIBYTE = 1024 * 1024
ROOT = Path(__file__).resolve().parents[2]
README = " ".join((ROOT / "README.md").read_text().split())
RESULTS = ROOT / "tests" / "bench" / "results"


def kept(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def untold(sentences: list[str]) -> list[str]:
    return [sentence for sentence in sentences if sentence not in README]


def test_rates_and_latencies_are_those_that_are_kept() -> None:
    calls = kept("bench")["calls"]
    names = {
        "read": "read one {peer:.1f} times and {floor:.0f} %",
        "list": "list of 20 with its total {peer:.1f} and {floor:.0f} %",
        "create": "create {peer:.1f} and {floor:.0f} %",
        "patch": "patch {peer:.1f} and {floor:.0f} %",
        "mix": "the mix {peer:.1f} and {floor:.0f} %",
    }
    sentences = [
        words.format(peer=calls[call]["against_peer"], floor=100 * calls[call]["against_floor"])
        for call, words in names.items()
    ]
    late = {
        (call, side): calls[call][side]["at_half_load"]["p99"]
        for call in names
        for side in ("taskflow", "peer")
    }
    sentences += [
        f"{late['read', 'taskflow']:.1f} ms for a read (the peer's {late['read', 'peer']:.1f})",
        f"{late['list', 'taskflow']:.1f} for a list ({late['list', 'peer']:.1f})",
        f"{late['create', 'taskflow']:.1f} for a create ({late['create', 'peer']:.1f})",
    ]
    milliseconds = calls["mix"]["taskflow"]["processor_ms"]
    sentences.append(
        f"at about {round(1000 / milliseconds, -2):,.0f} requests a second of the mix, each of"
        f" which takes {milliseconds:.2f} ms of a core"
    )
    assert untold(sentences) == []


def test_memory_is_as_it_is_kept() -> None:
    memory = kept("memory")["memory"]
    idle, warm, after = (max(memory[f"{part}_mb"]) for part in ("idle", "warm", "after"))
    sentence = (
        f"one takes {idle:.0f} MB idle, {warm:.0f} MB once warm and {after:.0f} MB after them;"
        f" `import app.main` takes {memory['import_seconds']:.1f} s"
    )
    assert untold([sentence]) == []


def test_figures_of_millions_of_tasks_are_those_that_are_kept() -> None:
    scale = kept("scale")["scale"]
    deep, pages, total = scale["deep_pages"], scale["first_pages"], scale["total"]
    orders = [pages[sort]["ratio"] for sort in deep]
    deeper = [cells["ratio"] for cells in deep.values()]
    walked = pages["due_before"]["large_ms"]
    filtered = [cells["large_ms"] for name, cells in pages.items() if name not in deep]
    filtered.remove(walked)

    def milliseconds(search: str) -> list[int]:
        found = [scale["searches"][f"{search}, count={counted}"] for counted in ("false", "true")]
        return [round(cells[part]) for cells in found for part in ("p50_ms", "p95_ms")]

    words = [
        milliseconds(f"{owner}, {typed}")
        for owner in ("large", "small")
        for typed in ("whole words", "unfinished")
    ]
    sentences = [
        f"takes {min(orders):.2f} to {max(orders):.2f} times that of an owner of a thousand",
        f"by cursor {min(deeper):.2f} to {max(deeper):.2f} times the first",
        f"it takes {min(filtered):.1f} to {max(filtered):.1f} ms, whichever filter it is",
        f"takes {walked:.0f} ms where most of the newest tasks are due later",
        f"found at once ({pages['due_before, few']['large_ms']:.0f} ms)",
        f"takes {total['page_ms']:.0f} ms, {total['ratio']:.2f} times PostgreSQL's own",
        "{} ms (median) and {} ms (95th percentile) without a total, and in {} and {} ms with"
        " it".format(*words[0]),
        "not finished yet, in {} and {} ms, and in {} and {} ms".format(*words[1]),
        "found in {} and {} ms without a total, and in {} and {} ms with it".format(*words[2]),
        "unfinished, in {} and {} ms, and in {} and {} ms".format(*words[3]),
        f"create {scale['batches']['per_second']:,} tasks a second over one connection",
    ]
    assert untold(sentences) == []


def test_limits_are_those_of_the_code() -> None:
    mebibytes = MAXIMUM_BODY_BYTES // MEBIBYTE, BatchRoute.maximum_body_bytes // MEBIBYTE
    rows = [
        (
            f"| a body | {mebibytes[0]} MiB; of a batch {mebibytes[1]} MiB; of OAuth 2's calls"
            f" {MAXIMUM_FORM_BYTES // 1024} KiB |"
        ),
        f"| {models.TITLE_MAX_LENGTH} and {models.DESCRIPTION_MAX_LENGTH:,} characters |",
        f"| tags | {models.MAXIMUM_TAGS} of {models.TAG_MAX_LENGTH} characters |",
        (
            f"| {models.METADATA_MAX_BYTES // 1024} KiB as compact JSON,"
            f" {models.METADATA_MAX_LEVELS} levels |"
        ),
        f"| an `external_id` | {models.EXTERNAL_ID_MAX_LENGTH} characters |",
        f"| a search | {SEARCH_MAX_LENGTH} characters |",
        f"| a page | {MAXIMUM_PER_PAGE} tasks |",
        f"| {MAXIMUM_OPERATIONS:,} operations, and {CHARACTERS_ANSWERED // MEBIBYTE} MiB of text",
        f"| {MAXIMUM_KEYS} API keys;",
    ]
    assert untold(rows) == []
