"""Memory over thousands of new texts: four tabs on story-gpt's attention page; every edit is a text not seen before.

The first texts fill the cache of traces; the server's memory after them is compared with its memory at the end.
"""

import asyncio
import time
from collections.abc import Callable

import psutil

from benchmarks.frame import Row, row
from benchmarks.session import Session, exceptions, server

TABS = 4
FIRST, TEXTS, QUICK_TEXTS = 500, 5000, 500
LOOKS = 10  # memory measurements along the way


def run(repeats: int) -> list[Row]:
    """Return rows with the server's memory after the first texts and after all the others."""
    n_texts = TEXTS if repeats > 1 else QUICK_TEXTS
    with server() as (url, process):
        megabytes, errors = asyncio.run(edit(url, n_texts, lambda: _own_megabytes(process)))
    first, last = megabytes[0], megabytes[-1]
    print("MB on the way:", *(f"{one:.0f}" for one in megabytes))
    return [
        row(
            f"memory after {n_texts:,} more texts",
            f"{TABS} tabs",
            last,
            "MB",
            against=f"after {FIRST:,} texts",
            theirs=first,
            at_most=1.03,
        ),
        row("highest on the way", f"{TABS} tabs", max(megabytes), "MB"),
        row("errors", f"{TABS} tabs", len(errors), "", at_most=0),
    ]


def _own_megabytes(process: psutil.Process) -> float:
    """Return the process' private memory in MB: the system adds and drops pages of mapped files as it likes."""
    memory = process.memory_info()
    return float(memory.rss - memory.shared) / 1e6


async def edit(url: str, n_texts: int, megabytes: Callable[[], float]) -> tuple[list[float], list[str]]:
    """Make all edits; return the server's MB after the first texts and at each later measurement, and all errors."""
    found, errors = [], []
    numbers = iter(range(10**9))
    async with asyncio.TaskGroup() as opening:
        tabs = [opening.create_task(_open(url)) for _ in range(TABS)]
    sessions = [tab.result() for tab in tabs]
    for n_more in [FIRST, *[n_texts // LOOKS] * LOOKS]:
        until = next(numbers) + n_more

        async def work(session: Session, until: int = until) -> None:
            while (number := next(numbers)) < until:
                errors.extend(exceptions(await session.put("Text", text(number))))

        async with asyncio.TaskGroup() as editing:
            for session in sessions:
                editing.create_task(work(session))
        time.sleep(1)
        found.append(megabytes())
    for session in sessions:
        await session.__aexit__(None, None, None)
    return found, errors


async def _open(url: str) -> Session:
    session = await Session(url, "attention", {"text": "Once upon a time"}).__aenter__()
    await session.open()
    return session


def text(number: int) -> str:
    """Return a different text of 10 to 50 tokens for every number."""
    return f"Once upon a time there was dog number {number}" + " and a cat" * (number % 12) + f", and {number * 7919}."
