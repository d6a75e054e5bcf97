"""What the benchmark makes of answers and slices; the services themselves are not started."""

import json
from xml.etree import ElementTree as ET

import pytest

from tests.bench.calls import CALLS, SHORT_NAMES, requests_of
from tests.bench.chart import chart
from tests.bench.data import Person
from tests.bench.equality import differences
from tests.bench.load import Paced, Slice
from tests.bench.report import figures_of, table

PEOPLE = [Person(1, "tfu_one", [1, 2, 3]), Person(2, "tfu_two", [4, 5, 6])]


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        ({"a": 1}, {}, "answer.a is missing"),
        ({}, {"a": 1}, "answer.a is too much"),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "answer.a[1].b is 3, not 2"),
        ({"a": [1]}, {"a": [1, 2]}, "answer.a is [1, 2], not [1]"),
        ({"a": 1}, {"a": True}, "answer.a is True, not 1"),
        ({"a": None}, {"a": ""}, "answer.a is '', not None"),
    ],
    ids=["missing", "extra", "nested", "length", "type", "null"],
)
def test_a_difference_between_two_answers_is_told_by_its_place(
    expected: object, found: object, told: str
) -> None:
    assert list(differences(expected, found)) == [told]


def test_equal_answers_differ_nowhere_whatever_the_order_of_their_fields() -> None:
    assert list(differences({"a": [1, 2], "b": None}, {"b": None, "a": [1, 2]})) == []


@pytest.mark.parametrize("call", CALLS)
def test_requests_are_whole_and_by_several_people(call: str) -> None:
    requests = requests_of(call, PEOPLE, "127.0.0.1:1", number=50, seed=1)

    assert len(requests) == 50
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        length = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
        assert length == ([b"Content-Length: %d" % len(body)] if body else [])
    assert {b"tfu_one" in request for request in requests} == {True, False}
    assert requests == requests_of(call, PEOPLE, "127.0.0.1:1", number=50, seed=1)


def test_no_two_patches_are_the_same_so_that_each_changes_something() -> None:
    requests = [
        request
        for seed in (1, 2)
        for request in requests_of("patch", PEOPLE, "127.0.0.1:1", number=500, seed=seed)
    ]
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in requests]
    assert len({body["metadata"]["revision"] for body in bodies}) == 1_000


def test_no_key_comes_twice_so_that_each_creates_something() -> None:
    requests = [
        request
        for seed in (1, 2)
        for request in requests_of("create-keyed", PEOPLE, "127.0.0.1:1", number=500, seed=seed)
    ]
    heads = [request.partition(b"\r\n\r\n")[0].split(b"\r\n") for request in requests]
    keys = [line for head in heads for line in head if line.startswith(b"Idempotency-Key: ")]
    assert len(keys) == len(set(keys)) == 1_000


def rounds(*rates: float) -> list[Slice]:
    return [Slice(per_second=rate, p50=1.0, p99=2.0, processor_ms=0.5) for rate in rates]


def test_ratios_are_medians_of_what_was_measured_side_by_side() -> None:
    slices = {"read": {"taskflow": rounds(100, 300, 200), "peer": rounds(50, 100, 200)}}
    cells = figures_of(slices, {})["read"]

    assert cells["taskflow"]["per_second"] == 200
    assert cells["peer"]["per_second"] == 100
    # 2, 3 and 1, and not the ratio of the medians.
    assert cells["against_peer"] == 2.0


def test_the_table_says_which_goals_are_missed() -> None:
    slices = {
        "read": {"taskflow": rounds(600), "peer": rounds(100), "floor": rounds(900)},
        "create": {"taskflow": rounds(300), "peer": rounds(100), "floor": rounds(900)},
    }
    paced = [Paced(per_second=300, p50=1.0, p99=p99, lateness_p99=0.1) for p99 in (3.0, 50.0, 5.0)]
    text = table(figures_of(slices, {"read": {"taskflow": paced}}))

    (read,) = [line for line in text.splitlines() if "6.0x" in line]
    assert "≥5x ok" in read
    assert "67% ≥50% ok" in read
    (create,) = [line for line in text.splitlines() if "3.0x" in line]
    assert "≥6x MISSED" in create
    assert "33% ≥50% MISSED" in create
    assert "tail 5.0x, goal ≤4x MISSED" in text


def test_the_table_says_what_a_key_costs() -> None:
    slices = {
        "create": {"taskflow": rounds(300, 300, 300), "peer": rounds(100, 100, 100)},
        "create-keyed": {"taskflow": rounds(150, 180, 240)},
    }
    assert "A create with a key comes to 60% of one without." in table(figures_of(slices, {}))


def test_the_chart_is_an_image_whose_bars_are_as_long_as_the_rates() -> None:
    slices = {"read": {"taskflow": rounds(400), "peer": rounds(100), "floor": rounds(800)}}
    picture = ET.fromstring(chart("A & B", figures_of(slices, {}), SHORT_NAMES))  # noqa: S314 - it is ours

    bars = [
        float(bar.attrib["width"])
        for bar in picture.iter("{http://www.w3.org/2000/svg}rect")
        if float(bar.attrib["x"]) > 0 and bar.attrib["height"] == "14"
    ]
    assert bars[0] == pytest.approx(4 * bars[1], rel=0.01)
    assert bars[2] == pytest.approx(2 * bars[0], rel=0.01)
    assert "4.0 times Flask" in "".join(picture.itertext())
