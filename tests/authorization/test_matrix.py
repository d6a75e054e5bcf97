"""The authorisation matrix: every operation of the document, by every kind of caller.

An operation without a row in `rows.py` fails here, and so does a row without an operation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select, text

from app.accounts import service
from app.accounts.credentials import SCOPES
from app.accounts.models import CredentialKind, User
from app.core.security import new_token
from app.db.session import Database
from app.main import create_app
from tests.authorization.rows import MARK, PUBLIC, SECURED, Call
from tests.conftest import NewAccount
from tests.support import (
    CHEAP_HASH,
    Account,
    assert_error,
    http_client,
    make_credential,
    service_settings,
)

METHODS = {"get", "post", "put", "patch", "delete"}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    scopes: list[str] | None
    success: int


def documented() -> dict[str, Operation]:
    document = create_app(service_settings("postgresql://unused/unused")).openapi()
    operations = {}
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            found = item[method]
            requirement = next((entry for entry in found.get("security", []) if entry), None)
            operations[found["operationId"]] = Operation(
                method.upper(),
                path,
                requirement and [scope for scopes in requirement.values() for scope in scopes],
                min(int(status) for status in found["responses"] if status.startswith("2")),
            )
    return operations


OPERATIONS = documented()


def scope_of_the_contract(operation: Operation) -> str:
    """Reading needs `…:read`, everything else `…:write`; users/me and api-keys are `account`."""
    family = "tasks" if operation.path.startswith("/api/v1/tasks") else "account"
    return f"{family}:{'read' if operation.method == 'GET' else 'write'}"


def test_every_operation_of_the_document_has_its_row() -> None:
    assert OPERATIONS.keys() == PUBLIC.keys() | SECURED.keys()
    assert not PUBLIC.keys() & SECURED.keys()


@pytest.mark.parametrize("name", sorted(SECURED))
def test_the_document_asks_for_just_the_scope_of_the_contract(name: str) -> None:
    assert OPERATIONS[name].scopes == [scope_of_the_contract(OPERATIONS[name])]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_document_marks_public_operations_as_such(name: str) -> None:
    assert OPERATIONS[name].scopes is None


@pytest.fixture
async def owner(new_account: NewAccount) -> Account:
    return await new_account(password_hash=CHEAP_HASH)


async def belongings(database: Database, account: Account) -> list[str]:
    """All that an account has in any table, but for when its credentials were used."""
    tables = text(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name IN ('user_id', 'owner_id') ORDER BY 1"
    )
    found: list[str] = []
    async with database.session() as session:
        owning = [("users", "id"), *(await session.execute(tables)).all()]
        for table, column in owning:
            rows = text(
                f"SELECT (to_jsonb(t) - 'last_used_at')::text FROM {table} t"  # noqa: S608 - names from the catalogue
                f" WHERE {column} = :id ORDER BY 1"
            )
            found.extend(await session.scalars(rows, {"id": account.id}))
    assert len(owning) > 2  # The catalogue knows the tables.
    return found


async def send(
    base_url: str, operation: Operation, call: Call, authorization: str | None
) -> httpx.Response:
    assert call.method == operation.method
    headers = {} if authorization is None else {"Authorization": authorization}
    async with http_client(base_url, headers) as client:
        return await client.request(call.method, call.path, **call.options)


async def anonymous(_: Database, __: Account) -> str | None:
    return None


async def malformed(_: Database, owner: Account) -> str:
    return "Bearer " + owner.token[:-1] + ("x" if owner.token[-1] != "x" else "y")


async def unknown(_: Database, __: Account) -> str:
    return "Bearer " + new_token("tfk_")


async def expired(database: Database, owner: Account) -> str:
    token, _ = await make_credential(database, owner.id, expires_in=timedelta(seconds=-1))
    return f"Bearer {token}"


async def revoked(database: Database, owner: Account) -> str:
    """A key that the worker remembers from a use before its end."""
    token, credential_id = await make_credential(database, owner.id, kind=CredentialKind.API_KEY)
    async with http_client(str(owner.client.base_url), {"Authorization": f"Bearer {token}"}) as it:
        assert (await it.get("/api/v1/users/me")).status_code == 200
    async with database.session() as session:
        statement = text("UPDATE credentials SET revoked_at = now() WHERE id = :id")
        await session.execute(statement, {"id": credential_id})
    return f"Bearer {token}"


async def deactivated(database: Database, owner: Account) -> str:
    """The owner's login, which the worker remembers, of an owner who is locked out since."""
    assert (await owner.client.get("/api/v1/users/me")).status_code == 200
    async with database.transaction() as session:
        user = (await session.scalars(select(User).where(User.id == owner.id))).one()
        await service.set_active(session, user, active=False)
    return f"Bearer {owner.token}"


Stranger = Callable[[Database, Account], Awaitable[str | None]]
STRANGERS: list[Stranger] = [anonymous, malformed, unknown, expired, revoked, deactivated]


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
@pytest.mark.parametrize("name", sorted(SECURED))
async def test_a_stranger_gets_401_and_changes_nothing(
    owner: Account, base_url: str, database: Database, name: str, stranger: Stranger
) -> None:
    call = await SECURED[name](owner)
    authorization = await stranger(database, owner)
    before = await belongings(database, owner)

    response = await send(base_url, OPERATIONS[name], call, authorization)

    assert_error(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert await belongings(database, owner) == before


@pytest.mark.parametrize("name", sorted(SECURED))
async def test_another_account_neither_learns_nor_changes_anything(
    owner: Account,
    new_account: NewAccount,
    base_url: str,
    database: Database,
    name: str,
) -> None:
    other = await new_account(password_hash=CHEAP_HASH)
    call = await SECURED[name](owner)
    before = await belongings(database, owner)

    response = await send(base_url, OPERATIONS[name], call, f"Bearer {other.token}")

    assert response.status_code == (call.foreign or OPERATIONS[name].success), response.text
    if call.foreign == 404:
        assert response.json()["code"].endswith("not_found")
    if name != "create_api_key":  # Its own body has the mark.
        assert MARK not in response.text
    assert await belongings(database, owner) == before


@pytest.mark.parametrize("name", sorted(SECURED))
async def test_every_scope_but_the_right_one_is_refused_and_changes_nothing(
    owner: Account, base_url: str, database: Database, name: str
) -> None:
    needed = scope_of_the_contract(OPERATIONS[name])
    wrong = [[scope] for scope in SCOPES if scope != needed]
    wrong += [[scope for scope in SCOPES if scope != needed], []]
    call = await SECURED[name](owner)

    for scopes in wrong:
        token, _ = await make_credential(
            database, owner.id, kind=CredentialKind.API_KEY, scopes=scopes
        )
        before = await belongings(database, owner)
        response = await send(base_url, OPERATIONS[name], call, f"Bearer {token}")
        assert_error(response, 403, "insufficient_scope")
        challenge = response.headers["WWW-Authenticate"]
        assert challenge == f'Bearer error="insufficient_scope", scope="{needed}"'
        assert await belongings(database, owner) == before


@pytest.mark.parametrize("kind", list(CredentialKind))
@pytest.mark.parametrize("name", sorted(SECURED))
async def test_the_right_scope_alone_suffices(
    owner: Account, base_url: str, database: Database, name: str, kind: CredentialKind
) -> None:
    call = await SECURED[name](owner)
    token, _ = await make_credential(
        database, owner.id, kind=kind, scopes=OPERATIONS[name].scopes or []
    )

    response = await send(base_url, OPERATIONS[name], call, f"Bearer {token}")

    assert response.status_code == OPERATIONS[name].success, response.text


@pytest.mark.parametrize("stranger", [anonymous, malformed, expired], ids=lambda it: it.__name__)
@pytest.mark.parametrize("name", sorted(PUBLIC))
async def test_a_public_operation_needs_no_credential_and_ignores_one(
    owner: Account, base_url: str, database: Database, name: str, stranger: Stranger
) -> None:
    call = await PUBLIC[name](owner)

    response = await send(base_url, OPERATIONS[name], call, await stranger(database, owner))

    assert response.status_code == OPERATIONS[name].success, response.text
