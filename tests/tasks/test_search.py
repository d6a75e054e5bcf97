"""Full-text search: GET /api/v1/tasks?q=…"""

import asyncio
import unicodedata
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from app.db.migrations import migrate
from app.db.session import Database
from app.main import create_app
from app.tasks.search import Search, parameters_of, parse_search
from tests.conftest import NewDatabase
from tests.support import Account, assert_error, make_account, run_sql, served, service_settings


async def found(account: Account, q: str, **query: Any) -> set[str]:
    response = await account.client.get("/api/v1/tasks", params={"q": q, **query})
    assert response.status_code == 200, response.text
    return {task["title"] for task in response.json()["data"]["tasks"]}


TITLES = [
    "Le café est fermé",
    "L'ÉCOLE des Œuvres",
    "Straße nach Ærø",
    "Купить МОЛОКО для ёжика",
    "\u039f δρόμος του Οδυσσέα ΦΩΣ",
    "شراء الخبز من السوق",
    "買い物に行くタスク",
    "北京大学的作业",
    "ﾌﾟﾘﾝﾀの用紙",
    "할 일 목록",
    "Đường phố Hà Nội",
    "İstanbul'a bilet",
    "naïve coöperation",
]


QUERIES = [
    ("cafe", 0),
    ("CAFÉ", 0),
    ("cafe\u0301", 0),
    ("école", 1),
    ("ecole", 1),
    ("oeuvres", 1),
    ("strasse", 2),
    ("STRASSE", 2),
    ("aero", 2),
    ("молоко", 3),
    ("ежика", 3),
    ("Ёжика", 3),
    ("δρομος", 4),
    ("ΔΡΌΜΟΣ", 4),
    ("φως", 4),
    ("οδυσσεα", 4),
    ("الخبز", 5),
    ("買い物", 6),
    ("物に行", 6),
    ("タスク", 6),
    ("スク", 6),
    ("ﾀｽｸ", 6),
    ("大学", 7),
    ("京", 7),
    ("プリンタ", 8),
    ("목록", 9),
    ("duong", 10),
    ("ha noi", 10),
    ("istanbul", 11),
    ("NAIVE cooperation", 12),
]


async def test_words_of_any_script_are_found_without_regard_to_case_and_accents(
    alice: Account,
) -> None:
    for title in TITLES:
        await alice.create_task(title=title)

    for q, expected in QUERIES:
        assert await found(alice, q) == {TITLES[expected]}, q


async def test_every_word_must_be_there_and_the_last_may_be_begun(alice: Account) -> None:
    await alice.create_task(title="Water the plants", description="The ferns first.", tags=["home"])
    await alice.create_task(title="Waterproof the shed", tags=["Wöchentlich 3"])

    both = {"Water the plants", "Waterproof the shed"}
    for q, expected in {
        "water": both,
        "WAT": both,
        "the": both,
        "water plants": {"Water the plants"},
        "plants wat": both - {"Waterproof the shed"},
        "wat plants": set(),
        "ferns home water": {"Water the plants"},
        "home plan": {"Water the plants"},
        "plan home": set(),
        "wochentlich": {"Waterproof the shed"},
        "water -ferns": {"Waterproof the shed"},
        "-ferns wat": {"Waterproof the shed"},
        "-fern wat": both,
        'wat -"the shed"': {"Water the plants"},
        'wat -"shed the"': both,
        '"the plants"': {"Water the plants"},
        '"the plan"': set(),
        '"the plan" the': set(),
        '"plants the"': set(),
        '"water the plants': {"Water the plants"},
        'water"the plants"': {"Water the plants"},
        "the 3": {"Waterproof the shed"},
        "water nothing": set(),
    }.items():
        assert await found(alice, q) == expected, q


async def test_a_phrase_does_not_reach_from_one_field_or_tag_into_the_next(alice: Account) -> None:
    await alice.create_task(title="Water", description="plants", tags=["at home", "every day"])

    for phrase in ("water plants", "plants at", "home every"):
        assert await found(alice, f'"{phrase}"') == set()
        assert await found(alice, phrase) == {"Water"}
    assert await found(alice, '"every day"') == {"Water"}


@pytest.mark.parametrize(
    "q",
    [
        "%",
        "_",
        "'",
        "&",
        ":*",
        "!",
        "*",
        "\\",
        "()",
        "|",
        "<->",
        "''",
        "-",
        "--",
        '""',
        "🌱",
        "。",
        "\u0301",
        "%_'&:*!\\|()<>",
        " \t\n\u3000",
    ],
)
async def test_without_a_word_nothing_is_searched(alice: Account, q: str) -> None:
    await alice.create_task(title="100% & 'more'_: it's !* a \\ | <->")

    response = await alice.client.get("/api/v1/tasks", params={"q": q})
    assert_error(response, 400, "validation_failed", fields={"query.q": "invalid"})


@pytest.mark.parametrize(
    "q",
    [
        "a:*",
        "a & b",
        "a | b",
        "!a b",
        "a <-> b",
        "a'b",
        "a''b\\",
        "(a",
        "a)",
        "a:b",
        "a%",
        "a_b",
        "a\\",
        "' OR 1=1 --a",
        "a::tsquery",
        "$1a",
        "a\u200bb",
        "٣ ³",
        "ⅷ",
        "a" * 500,
        "ﷺ" * 500,
        "😀a" * 250,
        "界" * 500,
        "a " * 250,
        " ".join(chr(ord("一") + n) for n in range(250)),
        "b" + "".join(f" -{n:x}" for n in range(120)),
        '"a" ' * 125,
        "-a " * 166 + "b",
        "a-" * 250,
        "e@x.com/a?b=c#d",
        "1e400",
        "1.5.7",
    ],
)
async def test_whatever_is_typed_neither_fails_nor_matches_everything(
    alice: Account, q: str
) -> None:
    await alice.create_task(title="Nothing of the sort")

    assert await found(alice, q) == set()


async def test_text_with_signs_in_it_is_found_by_its_words(alice: Account) -> None:
    await alice.create_task(title="Ask o'neill: 100% of e-mail_to a@b.example (see #7/8)!")

    for q in ("o'neill", "100%", "e-mail", "mail_to", "a@b.example", "b.exam", "#7", "7/8", "(see"):
        assert len(await found(alice, q)) == 1, q


async def test_of_many_words_each_must_be_there_or_none_of_them(alice: Account) -> None:
    words = [f"word{n}" for n in range(60)]
    await alice.create_task(title="All", description=" ".join(words))
    await alice.create_task(title="All but the last", description=" ".join(words[:-1]))
    await alice.create_task(title="None", tags=["other"])

    assert await found(alice, " ".join(words)) == {"All"}
    assert await found(alice, " ".join(words[::-1])) == {"All"}
    assert await found(alice, " ".join(words[:-1])) == {"All", "All but the last"}
    for n in (0, 30, 59):
        without = [f"-no{n}" for n in range(59)]
        without.insert(n, f"-{words[59]}")
        assert await found(alice, "word1 " + " ".join(without)) == {"All but the last"}
        assert await found(alice, "other " + " ".join(f"-{word}" for word in words)) == {"None"}


def _worst_texts() -> dict[str, str]:
    grown = sorted(
        (chr(code) for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000),
        key=lambda character: -len(unicodedata.normalize("NFKC", character).encode()),
    )[:200]
    return {
        "different Han characters": "".join(chr(0x4E00 + n) for n in range(20_000)),
        "one long word": "x" * 20_000,
        "words of the greatest length": " ".join(f"{n}{'x' * 2040}" for n in range(9)),
        "what grows most": "".join(grown) * 100,
        "what grows most, in words": " ".join("".join(grown[n : n + 4]) for n in range(196)) * 20,
        "different short words": " ".join(f"{n:x}" for n in range(4200)),
        "letters of four bytes": " ".join(
            chr(0x10400 + n % 80) + chr(0x10400 + n // 80) for n in range(6_400)
        ),
        "marks": "a" + "\u0301" * 19_999,
        "Arabic ligatures": "\ufdfa" * 20_000,
        "punctuation": "!?-_." * 4_000,
    }


async def test_no_text_is_too_much_for_the_search(alice: Account) -> None:
    tags = [f"{n:02}" + "界" * 48 for n in range(20)]
    for name, description in _worst_texts().items():
        task = await alice.create_task(title="Ω" * 200, description=description[:20_000], tags=tags)
        path = f"/api/v1/tasks/{task['id']}"
        assert (await alice.client.patch(path, json={"title": name})).status_code == 200
        assert await found(alice, f'"{name}"') == {name}
        assert len(await found(alice, "x" * 500)) < 4


async def test_search_combines_with_filters_and_stays_within_the_callers_tasks(
    alice: Account, bob: Account
) -> None:
    await alice.create_task(title="Water A", status="completed", tags=["x"])
    await alice.create_task(title="Water B", tags=["x"])
    await bob.create_task(title="Water C", tags=["x"])

    assert await found(alice, "water", status="completed", tag="x") == {"Water A"}
    assert await found(bob, "water") == {"Water C"}


async def test_changes_are_found_at_once_and_the_trash_never(alice: Account) -> None:
    task = await alice.create_task(title="Old", tags=["tulip"])
    path = f"/api/v1/tasks/{task['id']}"

    await alice.client.patch(path, json={"title": "New", "tags": ["rose"]})
    assert await found(alice, "old") == await found(alice, "tulip") == set()
    assert await found(alice, "new rose") == {"New"}
    await alice.client.delete(path)
    assert await found(alice, "new") == set()


async def test_case_is_ignored_whatever_the_locale_of_the_database(
    server_url: str, new_empty_database: NewDatabase
) -> None:
    url = make_url(new_empty_database())
    run_sql(
        server_url,
        f'DROP DATABASE "{url.database}"',
        f'CREATE DATABASE "{url.database}" TEMPLATE template0 ENCODING UTF8'
        " LOCALE 'C' LOCALE_PROVIDER libc",
    )
    address = url.render_as_string(hide_password=False)
    await asyncio.to_thread(migrate, address)
    settings = service_settings(address)
    database = Database(settings)
    with served(create_app(settings)) as base_url:
        account = await make_account(database, base_url)
        for title in TITLES:
            await account.create_task(title=title)
        assert await found(account, "ΔΡΌΜΟΣ") == {TITLES[4]}
        assert await found(account, "молоко ежика") == {TITLES[3]}
        assert await found(account, "ecole") == {TITLES[1]}
        assert await found(account, "タスク") == {TITLES[6]}
        await account.client.aclose()
    await database.close()


def test_what_is_typed_is_read_as_people_mean_it() -> None:
    assert parse_search('a "b c" -d -"e f" g') == Search(("a", "b c"), ("d", "e f"), "g")
    assert parse_search('g "b c"') == Search(("b c",), (), "g")
    assert parse_search('"b c') == Search(("b c",), (), None)
    assert parse_search("a - b") == Search(("a",), (), "b")
    assert parse_search("a--b --c d") == Search(("a--b",), ("-c",), "d")
    assert parse_search('a"b"c') == Search(("a", "b"), (), "c")
    assert parse_search("a a a") == Search(("a",), (), "a")


def test_searches_for_many_words_share_a_statement() -> None:
    def form(*, required: int, excluded: int) -> object:
        words = [f"{n:x}" for n in range(required)] + [f"-{n:x}" for n in range(excluded)]
        return parameters_of(parse_search(" ".join(words)))[0]

    assert form(required=12, excluded=11) == form(required=60, excluded=50)
    assert form(required=2, excluded=1) != form(required=3, excluded=1)
