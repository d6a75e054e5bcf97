"""What clients send in random histories: small pools, so that things meet."""

from hypothesis import strategies as st

from tests.model.model import PRIORITIES, STATUSES

WORDS = ["water", "Fern", "café", "Ärger", "вода", "ferns"]
DUE_AT = [
    "2020-01-01T10:59:59.999999Z",
    "2020-01-01T12:00:00.000000Z",
    "2020-01-02T00:00:00.000000Z",
    "2090-06-01T00:00:00.000000Z",
]
DUE_ON = ["2020-01-01", "2020-01-02", "2090-05-31"]
BOUNDS = [
    "2020-01-01T10:59:59.999999Z",
    "2020-01-01T11:00:00Z",
    "2020-01-01T23:59:59.999999Z",
    "2020-01-02T06:00:00+01:00",
    "2050-01-01T00:00:00Z",
]
ZONES = ["UTC", "Pacific/Auckland", "America/New_York"]
EXTERNAL_IDS = ["crm/1", "crm 2", "ünïcode"]
SORTS = ["created_at", "updated_at", "due", "priority", "title"]

text_of_words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
json_values = st.recursive(
    # 0 and 1 would be equal to False and True in Python, and are not in JSON.
    st.none() | st.booleans() | st.integers(2, 9) | st.sampled_from(["a", "é"]),
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=2) | st.lists(inner, max_size=2)
    ),
    max_leaves=4,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)
due_dates = st.sampled_from(
    [{}, *({"due_at": it} for it in DUE_AT), *({"due_on": it} for it in DUE_ON)]
)
FIELDS = {
    "title": text_of_words,
    "description": st.sampled_from(["", "About café", "naïve вода"]),
    "status": st.sampled_from(STATUSES),
    "priority": st.sampled_from(PRIORITIES),
    "tags": st.lists(st.sampled_from(["a", "b", "Water"]), unique=True, max_size=3),
    "metadata": objects,
}
contents = st.builds(
    lambda fields, when: fields | when,
    st.fixed_dictionaries(
        {"title": FIELDS["title"]},
        optional={name: it for name, it in FIELDS.items() if name != "title"},
    ),
    due_dates,
)
creations = st.builds(
    lambda fields, external: fields | external,
    contents,
    st.fixed_dictionaries({}, optional={"external_id": st.sampled_from([*EXTERNAL_IDS, None])}),
)
patches = st.fixed_dictionaries(
    {},
    optional=FIELDS
    | {
        "due_at": st.sampled_from([*DUE_AT, None]),
        "due_on": st.sampled_from([*DUE_ON, None]),
        "external_id": st.sampled_from([*EXTERNAL_IDS, None]),
    },
).filter(lambda patch: not (patch.get("due_at") and patch.get("due_on")))


def some_of(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


filters = st.fixed_dictionaries(
    {},
    optional={
        "status": some_of(STATUSES),
        "priority": some_of(PRIORITIES),
        "tag": some_of(["a", "b", "Water", "water"]),
        "q": st.sampled_from(["water", "fer", "cafe", "arger -fern", "вода", "fern wa", "-a b"]),
        "due_after": st.sampled_from(BOUNDS),
        "due_before": st.sampled_from(BOUNDS),
        "overdue": st.sampled_from(["true", "false"]),
        "external_id": st.sampled_from(EXTERNAL_IDS),
        "time_zone": st.sampled_from(ZONES),
    },
)
moments = st.sampled_from(["created_after", "created_before", "updated_after", "updated_before"])
sorts = st.builds("".join, st.tuples(st.sampled_from(["", "-"]), st.sampled_from(SORTS)))
