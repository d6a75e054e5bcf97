"""POST /api/v1/tasks/batch: names that move, and that it does what single calls would do."""

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.tasks.batch import service
from app.tasks.batch.documents import as_stored, is_same, stored_size
from tests.conftest import NewAccount
from tests.support import Account
from tests.tasks.batches import create, delete, results, run, update

PATH = "/api/v1/tasks"
MISSING_ID = 999_999_999_999


async def names(account: Account) -> dict[str, str]:
    """The external_ids by title."""
    tasks = (await account.client.get(PATH)).json()["data"]["tasks"]
    return {task["title"]: task["external_id"] for task in tasks if task["external_id"]}


async def test_names_pass_from_task_to_task_in_one_batch(alice: Account) -> None:
    a, b, c = [
        (await alice.create_task(title=name, external_id=name.lower()))["id"] for name in "ABC"
    ]
    # Given up and taken.
    results(await run(alice, update(a, external_id=None), update(b, external_id="a")))
    assert await names(alice) == {"B": "a", "C": "c"}
    # Exchanged by way of none.
    results(
        await run(
            alice,
            update(b, external_id=None),
            update(c, external_id="a"),
            update(b, external_id="c"),
        )
    )
    assert await names(alice) == {"B": "c", "C": "a"}
    # Left by a task in the trash, and by one that is gone, to a new one.
    results(
        await run(
            alice,
            delete(b),
            create(title="D", external_id="c"),
            delete(c, permanent=True),
            create(title="E", external_id="a"),
            update(a, external_id="b"),
        )
    )
    assert await names(alice) == {"D": "c", "E": "a", "A": "b"}


async def test_names_go_round_in_a_circle_whichever_way_the_rows_lie(alice: Account) -> None:
    ids = [(await alice.create_task(title=f"{n}", external_id=f"{n}"))["id"] for n in range(3)]
    for order in permutations(range(3)):
        operations = [update(one, external_id=None) for one in ids]
        operations += [update(one, external_id=f"{n}") for one, n in zip(ids, order, strict=True)]
        results(await run(alice, *operations))
        assert await names(alice) == {f"{title}": f"{n}" for title, n in enumerate(order)}


async def test_a_name_that_is_held_is_refused_until_it_is_free(alice: Account) -> None:
    holder = (await alice.create_task(title="A", external_id="x"))["id"]
    each = results(
        await run(
            alice,
            create(title="B", external_id="x"),
            update(holder, external_id="x"),
            create(title="C", external_id="y"),
            update(holder, external_id="y"),
            delete(holder),
            create(title="D", external_id="x"),
            create(title="E", external_id="x"),
            atomic=False,
        )
    )

    assert [one["status"] for one in each] == [409, 200, 201, 409, 200, 201, 409]
    assert await names(alice) == {"C": "y", "D": "x"}


async def test_a_task_made_and_changed_in_one_batch_is_stored_as_it_is_in_the_end(
    alice: Account,
) -> None:
    latest = (await alice.create_task())["id"]
    # Nobody should guess ids; who does finds what the operations before have made.
    for guess in range(latest + 1, latest + 3):
        each = results(
            await run(
                alice,
                create(title="x", external_id=f"{guess}"),
                update(guess, version=1, title="y"),
                delete(guess, version=2),
                atomic=False,
            )
        )
        assert [one["status"] for one in each] == [201, 200, 200]
        read = await alice.client.get(f"{PATH}/{guess}")
        assert read.status_code == 404


async def test_long_texts_are_written_in_portions(
    alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CHARACTERS_AT_ONCE", 10)
    made = results(
        await run(alice, *(create(title=f"{n}", description="x" * n) for n in range(12)))
    )
    ids = [one["data"]["id"] for one in made]
    changed = results(
        await run(
            alice,
            *(update(one, description="y" * n) for n, one in enumerate(ids[:8])),
            *(update(one, tags=["a"]) for one in ids[4:10]),
            *(update(one, status="completed") for one in ids[6:]),
        )
    )

    latest = {one["data"]["id"]: one["data"] for one in made + changed}
    for one in ids:
        assert (await alice.client.get(f"{PATH}/{one}")).json()["data"] == latest[one]


NUMBERS = [0, -0.0, 1, 1.0, 100, 1e2, 1e16, 10**16, 1e22, 1e23, 10**23, 1.5e300, 1e-7, 5e-324, 0.1]
OTHERS: list[Any] = [True, False, None, "", 'é\u007f\n\t\\"', "\u2028", [], {}, [None, {"a": None}]]
VALUES: st.SearchStrategy[Any] = st.sampled_from([*NUMBERS, *OTHERS])
DOCUMENTS = st.dictionaries(
    st.sampled_from(["a", "b", "bb", "é", "z"]),
    VALUES | st.dictionaries(st.sampled_from(["a", "bb", "c"]), VALUES, max_size=3),
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "title": st.sampled_from(["One", " One", "Two", "İ", "", 7]),
    "description": st.sampled_from(["", "More", None]),
    "status": st.sampled_from(["pending", "completed", "completed", "cancelled", "x"]),
    "priority": st.sampled_from(["low", "high"]),
    "tags": st.sampled_from([[], ["a"], ["a", "b"], ["b", "a"], ["a", "a"]]),
    "due_at": st.sampled_from([None, "2026-12-01T09:30:00Z", "2026-12-01T10:30:00.0+01:00"]),
    "due_on": st.sampled_from([None, "2026-12-01", "9999-12-31"]),
    "external_id": st.sampled_from([None, "a", "b", "c"]),
    "metadata": DOCUMENTS,
    "colour": st.just("green"),
}
COMMON = {name: FIELDS[name] for name in FIELDS if name != "colour"}
MORE = {name: COMMON[name] for name in COMMON if name != "title"}
# Mostly valid: one operation in several has a field that is not known.
CHANGES = st.fixed_dictionaries({}, optional=COMMON) | st.fixed_dictionaries({}, optional=FIELDS)
# Which task: one of those that were there, one of those that the first batch made, or none at all.
SLOTS = st.integers(0, 6)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {"version": st.integers(1, 4)}
OPERATIONS = st.one_of(
    st.tuples(st.just("create"), st.fixed_dictionaries({"title": st.just("New")}, optional=MORE)),
    st.tuples(st.just("update"), SLOTS, st.fixed_dictionaries({}, optional=OPTIONS), CHANGES),
    st.tuples(st.just("update"), SLOTS, st.just({}), CHANGES),
    st.tuples(
        st.just("delete"),
        SLOTS,
        st.fixed_dictionaries({}, optional=OPTIONS | {"permanent": st.booleans()}),
    ),
)
START: list[dict[str, Any]] = [
    {"title": "One", "external_id": "a", "due_on": "2026-12-01"},
    {"title": "Two", "status": "completed", "tags": ["a", "b"]},
    {"title": "Three", "metadata": {"a": 1, "b": {"c": 1e2}, "bb": 1e22}},
]


class Trial:
    """The same operations on an account of its own, singly or in batches."""

    def __init__(self, account: Account, ids: list[int] | None = None) -> None:
        self.account = account
        self.ids = ids or []

    def at(self, slot: int) -> int:
        return self.ids[slot] if slot < len(self.ids) else MISSING_ID

    async def start(self) -> None:
        for task in START:
            self.ids.append((await self.account.create_task(**task))["id"])

    def comparable(self, status: int, body: Any) -> Any:
        """What must be equal: all but ids, and when it was."""
        if status >= 400:
            return status, body["code"], body["message"], body.get("errors")
        if body is None:
            return status, None
        timeless = {
            **body,
            "id": self.ids.index(body["id"]),
            "owner_id": None,
            "created_at": None,
            "updated_at": body["updated_at"] > body["created_at"],
            "completed_at": body["completed_at"] is not None,
        }
        # As text: 1 and 1.0 are equal, and the order of members is none of equality's business.
        return status, json.dumps(timeless)

    async def singly(self, operations: list[Any]) -> list[Any]:
        answers = []
        # A batch names only what was there before it.
        known = Trial(self.account, list(self.ids))
        for kind, *rest in operations:
            if kind == "create":
                response = await self.account.client.post(PATH, json=rest[0])
            else:
                task_id = known.at(rest[0])
                options = dict(rest[1])
                version = options.pop("version", None)
                headers = {} if version is None else {"If-Match": f'"{task_id}-{version}"'}
                path = f"{PATH}/{task_id}"
                if kind == "update":
                    response = await self.account.client.patch(path, json=rest[2], headers=headers)
                else:
                    params = {name: str(value).lower() for name, value in options.items()}
                    response = await self.account.client.delete(
                        path, params=params, headers=headers
                    )
            body = response.json()
            data = body["data"] if response.is_success else body
            if response.status_code == 201:
                self.ids.append(data["id"])
            answers.append(self.comparable(response.status_code, data))
        return answers

    async def in_a_batch(self, operations: list[Any]) -> list[Any]:
        sent = []
        for kind, *rest in operations:
            if kind == "create":
                sent.append(create(**rest[0]))
            elif kind == "update":
                sent.append(update(self.at(rest[0]), **rest[1]) | {"changes": rest[2]})
            else:
                sent.append(delete(self.at(rest[0]), **rest[1]))
        each = results(await run(self.account, *sent, atomic=False))
        self.ids += [one["data"]["id"] for one in each if one["status"] == 201]
        return [
            self.comparable(
                one["status"], one["error"] | _single_errors(one["index"], one["error"])
            )
            if "error" in one
            else self.comparable(one["status"], one["data"])
            for one in each
        ]

    async def state(self) -> list[Any]:
        tasks = (await self.account.client.get(PATH, params={"per_page": 100})).json()["data"]
        return sorted(self.comparable(200, task) for task in tasks["tasks"])


def _single_errors(index: int, error: dict[str, Any]) -> dict[str, Any]:
    """The errors as a single call would name them."""
    errors = error.get("errors")
    for fault in errors or []:
        for part in ("task", "changes"):
            prefix = f"body.operations[{index}].{part}"
            if fault["field"].startswith(prefix):
                fault["field"] = "body" + fault["field"].removeprefix(prefix)
    return {"errors": errors}


@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    # To shrink what fails would take minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.lists(OPERATIONS, min_size=1, max_size=12),
    second=st.lists(OPERATIONS, min_size=1, max_size=8),
)
async def test_a_batch_does_what_the_same_single_calls_do(
    new_account: NewAccount, first: list[Any], second: list[Any]
) -> None:
    single, batch = Trial(await new_account()), Trial(await new_account())
    await single.start()
    await batch.start()
    for operations in (first, second):
        assert await batch.in_a_batch(operations) == await single.singly(operations)
    assert await batch.state() == await single.state()


@pytest.mark.parametrize("number", [1e-300, 1e300, 1e-5, 0.1])
async def test_metadata_is_too_long_in_a_batch_where_it_is_in_a_single_call(
    alice: Account, number: float
) -> None:
    """As the database writes numbers out, which may be longer than they were sent."""
    size = stored_size({"a": [as_stored(number)]}) - stored_size({"a": []}) + len(",")
    most = 16_384 // size
    for count in (most - 1, most, most + 1):
        document = {"a": [number] * count}
        single = await alice.client.post(PATH, json={"title": "x", "metadata": document})
        (in_batch,) = results(await run(alice, create(title="x", metadata=document), atomic=False))
        assert in_batch["status"] == single.status_code
        patched = await alice.create_task()
        (in_batch,) = results(
            await run(alice, update(patched["id"], metadata=document), atomic=False)
        )
        single = await alice.client.patch(f"{PATH}/{patched['id']}", json={"metadata": document})
        assert in_batch["status"] == single.status_code


def test_numbers_are_the_same_by_value_and_booleans_are_no_numbers() -> None:
    assert is_same({"a": [1, {"b": 1.0}]}, {"a": [1.0, {"b": 1}]})
    pairs: list[tuple[Any, Any]] = [
        (1, True),
        (0, False),
        (None, False),
        ("1", 1),
        ([1], [1, 1]),
        ({}, []),
    ]
    for one, other in pairs:
        assert not is_same({"a": one}, {"a": other})
    assert not is_same({"a": 1}, {"b": 1})
