"""Tasks to look at, as a household with a small workshop would have them."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.tasks.models import Task, TaskPriority, TaskStatus, title_key

_GROUPS = [
    (
        ["Water", "Prune", "Repot", "Photograph", "Label"],
        (
            "the ferns|the roses|the tomatoes|the lemon tree|the herbs|the ivy|the orchids"
            "|the beans|the strawberries|the olive tree|the seedlings|the cactus"
            "|the lavender|the fig tree"
        ),
    ),
    (
        ["Write", "Check", "File", "Discuss", "Translate"],
        (
            "the invoice for Miller|the quarterly report|the insurance claim|the rental contract"
            "|the tax return|the offer to the school|the warranty for the lathe|the job posting"
            "|the minutes of Monday|the price list|the safety sheet|the newsletter|the café menu"
            "|the thank-you letter"
        ),
    ),
    (
        ["Order", "Clean", "Replace", "Measure", "Lend Jo"],
        (
            "the saw blades|the drill press|the work lamp|the bench vice|the dust filter|the clamps"
            "|the planer knives|the glue gun|the belt sander|the torque wrench|the band saw"
            "|the paint booth|the compressor|the tool cabinet"
        ),
    ),
    (
        ["Book", "Confirm", "Move", "Pay for", "Tell Ana about"],
        (
            "the dentist|the train to Köln|the piano tuner|the swimming course|the car inspection"
            "|the chimney sweep|the birthday dinner|the vet|the moving van|the holiday flat"
            "|the theatre tickets|the eye test|the parents' evening|the bicycle repair"
        ),
    ),
]
_TITLES = [
    f"{verb} {thing}"
    for verbs, things in _GROUPS
    for verb, thing in product(verbs, things.split("|"))
]
_DESCRIPTIONS = [
    "",
    "",
    "Ask first whether it can wait until next week.",
    "Last time it took an hour.\nThe notes are in the blue folder.",
    "Agreed on the phone. See also https://example.com/notes",
]
MAXIMUM_TASKS = len(_TITLES)
_BATCH = 20


async def seed_tasks(
    session: AsyncSession, owner_id: int, count: int, *, advance: Callable[[int], None]
) -> int:
    """Give the owner the first `count` (at most `MAXIMUM_TASKS`) demo tasks that are missing.

    Returns how many were added; `advance` is told how many of `count` are there. The same count
    makes the same tasks, spread over the last ninety days.
    """
    statement = select(Task.title).where(Task.owner_id == owner_id)
    present = set(await session.scalars(statement))
    chance = random.Random(7)  # noqa: S311 - the same tasks every time, no secrets
    shuffled = chance.sample(_TITLES, k=MAXIMUM_TASKS)
    now = datetime.now(UTC)
    rows = [_row(title, owner_id, now, chance) for title in shuffled[:count]]
    missing = [row for row in rows if row["title"] not in present]
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        await session.execute(insert(Task).values(batch))
        advance(count - len(missing) + start + len(batch))
    advance(count)
    return len(missing)


def _row(title: str, owner_id: int, now: datetime, chance: random.Random) -> dict[str, Any]:
    created_at = now - timedelta(seconds=chance.randrange(90 * 86_400))
    updated_at = created_at + (now - created_at) * chance.random()
    status = chance.choices(list(TaskStatus), weights=[5, 3, 6, 1])[0]
    return {
        "owner_id": owner_id,
        "title": title,
        "title_key": title_key(title),
        "description": chance.choice(_DESCRIPTIONS),
        "status": status,
        "priority": chance.choices(list(TaskPriority), weights=[3, 6, 3, 1])[0],
        "completed_at": updated_at if status is TaskStatus.COMPLETED else None,
        "created_at": created_at,
        "updated_at": updated_at,
    }
