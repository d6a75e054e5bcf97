"""`/docs` in a real browser: what a newcomer does there, and what the page must never do."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.conftest import NewAccount
from tests.support import CHEAP_HASH, PASSWORD, Account

pytestmark = [pytest.mark.browser, pytest.mark.long]

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 390, "height": 844}
MEGABYTE = 1_000_000
# Where to leave screenshots to look at, if anywhere.
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=QUIET
        )
        yield chromium
        await chromium.close()


class Docs:
    """The page, and all that it asked for and complained about."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )

    async def open(self) -> None:
        await self.page.goto(f"{self.base_url}/docs")
        await expect(self.page.locator(".opblock").first).to_be_visible()

    async def execute(self, operation: str, body: str | None = None) -> str:
        """Unfold an operation of the tasks, send it, and return the status that it shows."""
        block = self.page.locator(f"#operations-tasks-{operation}")
        if not await block.locator(".execute").is_visible():
            await block.locator(".opblock-summary-control").click()
        if body is not None:
            await block.locator("textarea.body-param__text").fill(body)
        async with self.page.expect_response(lambda it: "/api/v1/tasks" in it.url):
            await block.locator(".execute").click()
        status = block.locator(".live-responses-table .response-col_status").nth(1)
        await expect(status).to_be_visible()
        return (await status.inner_text()).split()[0]

    async def shoot(self, name: str) -> None:
        if SCREENSHOTS:
            await self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)

    def assert_it_kept_to_itself(self) -> None:
        assert self.hosts == {urlsplit(self.base_url).netloc}
        # The browser itself notes each answer that is an error, and Swagger UI each link that has
        # an underscore in it, as the names of operations have.
        expected = ("status of 401", "escaping deep link whitespace")
        assert [it for it in self.complaints if not any(part in it for part in expected)] == []


@pytest.fixture
async def docs(browser: Browser, base_url: str) -> AsyncIterator[Docs]:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    yield Docs(page, base_url)
    await page.close()


@pytest.fixture
async def owner(new_account: NewAccount) -> Account:
    return await new_account(password_hash=CHEAP_HASH)


async def test_a_newcomer_logs_in_creates_lists_and_logs_out(docs: Docs, owner: Account) -> None:
    page = docs.page
    await docs.open()
    await docs.shoot("docs")
    assert await page.locator(".opblock-tag").first.get_attribute("data-tag") == "tasks"
    assert await docs.execute("list_tasks") == "401"

    await page.locator("button.authorize").first.click()
    login = page.locator(".auth-container", has_text="OAuth2")
    await expect(login).to_contain_text("tasks:write")
    await expect(login.locator("#oauth_username")).to_be_focused()
    await expect(login.locator("#oauth_username")).to_be_in_viewport()
    await login.locator("#oauth_username").fill(owner.username)
    await login.locator("#oauth_password").fill(PASSWORD)
    await docs.shoot("authorize")
    await login.locator("button.authorize").click()
    await expect(login.locator("button", has_text="Logout")).to_be_visible()
    await page.locator(".auth-btn-wrapper .btn-done").first.click()

    assert await docs.execute("create_task", '{"title": "From the browser"}') == "201"
    assert await docs.execute("list_tasks") == "200"
    await expect(
        page.locator("#operations-tasks-list_tasks .live-responses-table")
    ).to_contain_text("From the browser")
    await docs.shoot("listed")

    await page.locator("button.authorize").first.click()
    await page.locator("button", has_text="Logout").click()
    await page.locator(".auth-btn-wrapper .btn-done").first.click()
    assert await docs.execute("list_tasks") == "401"
    docs.assert_it_kept_to_itself()


async def test_an_api_key_can_be_pasted(docs: Docs, owner: Account) -> None:
    key = (await owner.create_api_key(scopes=["tasks:read"]))["key"]
    page = docs.page
    await docs.open()
    await page.locator("button.authorize").first.click()
    bearer = page.locator(".auth-container", has_text="http, Bearer")
    await bearer.locator("input").fill(key)
    await bearer.locator("button.authorize").click()
    await page.locator(".auth-btn-wrapper .btn-done").first.click()

    assert await docs.execute("list_tasks") == "200"
    docs.assert_it_kept_to_itself()


async def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, base_url: str) -> None:
    page = await browser.new_page(viewport={"width": PHONE["width"], "height": PHONE["height"]})
    docs = Docs(page, base_url)
    await docs.open()
    task = page.locator("#operations-tasks-create_task")
    await task.locator(".opblock-summary-control").click()
    await expect(task.locator(".execute")).to_be_visible()
    # A changed body gets one more button, which takes it back.
    await task.locator("textarea.body-param__text").fill('{"title": "From a phone"}')
    await expect(task.locator(".reset")).to_be_visible()
    await docs.shoot("phone")
    width = await page.evaluate("document.documentElement.scrollWidth")
    await page.close()

    assert width <= PHONE["width"]
    docs.assert_it_kept_to_itself()


async def test_a_link_leads_to_its_operation_and_the_filter_finds_a_tag(docs: Docs) -> None:
    page = docs.page
    await page.goto(f"{docs.base_url}/docs#/tasks/create_task")
    await expect(page.locator("#operations-tasks-create_task .execute")).to_be_visible()
    await page.locator("input.operation-filter-input").fill("accounts")
    await expect(page.locator("#operations-accounts-read_me")).to_be_visible()
    await expect(page.locator("#operations-tasks-create_task")).to_have_count(0)
    docs.assert_it_kept_to_itself()


async def test_the_page_takes_under_two_megabytes_and_the_second_visit_next_to_nothing(
    browser: Browser, base_url: str
) -> None:
    context = await browser.new_context()
    visits: list[list[tuple[int, int]]] = []
    for _ in range(2):
        page = await context.new_page()
        session = await context.new_cdp_session(page)
        await session.send("Network.enable")
        statuses: dict[str, int] = {}
        transferred: dict[str, int] = {}

        def received(event: dict[str, object], into: dict[str, int] = statuses) -> None:
            extra: object = event.get("statusCode")
            into[str(event["requestId"])] = int(str(extra))

        def finished(event: dict[str, object], into: dict[str, int] = transferred) -> None:
            into[str(event["requestId"])] = int(float(str(event["encodedDataLength"])))

        session.on("Network.responseReceivedExtraInfo", received)
        session.on("Network.loadingFinished", finished)
        await Docs(page, base_url).open()
        visits.append([(statuses.get(key, 0), size) for key, size in transferred.items()])
        await page.close()
    await context.close()

    first, second = visits
    assert sum(size for _, size in first) < 2 * MEGABYTE
    assert {status for status, _ in first} == {200}
    assert {status for status, _ in second} <= {304, 0}
    assert sum(size for _, size in second) < MEGABYTE / 50
