"""A lecture hall: 30 tabs on story-gpt's attention page, each changing something every 2 s, for three rounds of 60 s.

The sessions are real ones, over Streamlit's web socket. Each session alternates between choosing another head or layer
and editing the text: mostly to a text that the others use too, sometimes to its own. Every round uses the same texts,
so growth between rounds does not come from the caches. At the end of a round, all sessions enter the same new text at
the same moment. An update's time is measured from when it was due until the server has finished it; drawing in the
browser is not included. Runs of the model are counted inside the server.

Then a hostile hall: sessions that keep asking for the gradients of long texts, each with its own text. Meanwhile
another user opens the attention page again and again, each time in a new tab with a new text.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import gptviz
from benchmarks.frame import Row, ids, row
from benchmarks.session import Session, exceptions, server
from gptviz.experiments.gradients import gradient_norms

SESSIONS, SECONDS, EVERY = 30, 60.0, 2.0
QUICK_SECONDS = 20.0  # for the single round of a quick run
HOSTILE, HOSTILE_TOKENS = 50, 256  # sessions on story-gpt
LARGE, LARGE_TOKENS = 2, 1024  # sessions on a model of GPT-2 small's shape
VIEWS, QUICK_VIEWS, SECONDS_A_VIEW = 40, 10, 2.0
IMPATIENT = 20.0  # Seconds after which a hostile session asks again, whether or not it got an answer.
WORDS = ("dog", "cat", "bird", "fish", "girl", "boy", "bear", "mouse", "horse", "pig", "cow", "duck")
TEXT = (
    "Once upon a time there was a little {0}. The little {0} lived in a house by the river, and every day the little "
    "{0} ran to the"
)


class Round(NamedTuple):
    """The results of one round."""

    milliseconds: list[float]  # one per update
    at_once: list[float]  # one per session, for the new text that all sessions enter at the same moment
    errors: list[str]
    megabytes: float  # held by the server at the end
    texts: set[str]  # all texts that the sessions used


def run(repeats: int) -> list[Row]:
    """Return the rows for every round on one server, and for the hostile sessions."""
    seconds = SECONDS if repeats > 1 else QUICK_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "runs"
        note.touch()
        with server("benchmarks.counted_server", str(note)) as (url, process):
            rounds = [
                asyncio.run(sit(url, number, SESSIONS, seconds, lambda: process.memory_info().rss / 1e6))
                for number in range(repeats)
            ]
        runs = note.read_text().splitlines()
    rows = []
    for number, one in enumerate(rounds, 1):
        case = f"round {number}, {SESSIONS} sessions"
        ordered = statistics.quantiles(one.milliseconds, n=20)
        rows += [
            row(f"update, median of {len(one.milliseconds):,}", case, statistics.median(one.milliseconds), "ms"),
            row("update, 95th percentile", case, ordered[-1], "ms", at_most=2000),
            row("one new text in all at once, the last to see it", case, max(one.at_once), "ms"),
            row("errors", case, len(one.errors), "", at_most=0),
            row("memory of the server", case, one.megabytes, "MB"),
        ]
        for error in one.errors[:3]:
            print(error)
    if repeats > 1:
        first, last = rounds[0].megabytes, rounds[-1].megabytes
        rows.append(row("memory, last round", "", last, "MB", against="first round", theirs=first, at_most=1.05))
    texts = set().union(*(one.texts for one in rounds))
    n_updates = sum(len(one.milliseconds) + len(one.at_once) for one in rounds)
    rows.append(
        row(
            "runs of the model",
            f"all {n_updates:,} updates",
            len(runs),
            "",
            against="different texts",
            theirs=len(texts),
            at_most=1.0,
        )
    )
    return rows + _hostile(VIEWS if repeats > 1 else QUICK_VIEWS)


def _hostile(n_views: int) -> list[Row]:
    """Return the rows for first views of a page while other sessions keep asking for gradients."""
    rows = []
    for model, n_sessions, n_tokens in (("story-gpt", HOSTILE, HOSTILE_TOKENS), ("untrained", LARGE, LARGE_TOKENS)):
        with server() as (url, _):
            alone = asyncio.run(_first_views(url, model, 5))
            beside = asyncio.run(_beside(url, model, n_sessions, n_tokens, n_views))
        case = f"{n_sessions} sessions, {model}, {n_tokens:,} tokens"
        rows += [
            row(
                f"first view beside gradients, median of {n_views}",
                case,
                statistics.median(beside),
                "ms",
                against="alone",
                theirs=statistics.median(alone),
            ),
            row("first view beside gradients, 95th percentile", case, statistics.quantiles(beside, n=20)[-1], "ms"),
        ]
        if model == "story-gpt":
            rows[-1] = row(rows[-1]["what"], case, rows[-1]["ours"], "ms", at_most=2000)
            continue
        engine = gptviz.load(model, device="cpu")
        start = time.monotonic()
        gradient_norms(engine, engine.tokenizer.tokens(ids(n_tokens)))
        rows.append(
            row(
                "first view beside gradients, the longest",
                case,
                max(beside),
                "ms",
                against="one pass there and back, alone",
                theirs=1e3 * (time.monotonic() - start),
                at_most=2.0,
            )
        )
    return rows


async def _beside(url, model, n_sessions, n_tokens, n_views) -> list[float]:  # type: ignore[no-untyped-def]
    """Return the milliseconds of each first view, measured once all other sessions are busy."""
    numbers = itertools.count()
    asking = [asyncio.create_task(_ask_for_gradients(url, model, n_tokens, numbers)) for _ in range(n_sessions)]
    await asyncio.sleep(IMPATIENT)
    try:
        return await _first_views(url, model, n_views)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _ask_for_gradients(url, model, n_tokens, numbers) -> None:  # type: ignore[no-untyped-def]
    words = "the" + " the" * (n_tokens - 8)
    while True:  # Open a new tab if the server did not answer in time.
        with suppress(TimeoutError):
            query = {"text": f"{next(numbers)} {words}", "model": model, "twin": "0"}
            async with Session(url, "gradients", query) as session:
                with suppress(TimeoutError):
                    await asyncio.wait_for(session.open(), IMPATIENT)
                while True:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(session.put("Text", f"{next(numbers)} {words}"), IMPATIENT)


async def _first_views(url, model, n_views) -> list[float]:  # type: ignore[no-untyped-def]
    times = []
    for number in range(n_views):
        start = time.monotonic()
        text = f"{TEXT.format(WORDS[number % len(WORDS)])} {time.time()}"
        async with Session(url, "attention", {"text": text, "model": model}) as session:
            problems = exceptions(await session.open())
            if problems:
                raise RuntimeError(problems[0])
        times.append(1e3 * (time.monotonic() - start))
        await asyncio.sleep(max(0.0, SECONDS_A_VIEW - (time.monotonic() - start)))
    return times


async def sit(url, number, n_sessions, seconds, megabytes) -> Round:  # type: ignore[no-untyped-def]
    """Run one round: each session opens the page, works for `seconds`, and synchronises with the others at the end."""
    found = Round([], [], [], 0.0, {TEXT.format(WORDS[0])})
    together = asyncio.Barrier(n_sessions)
    start = time.monotonic() + 3
    async with asyncio.TaskGroup() as sessions:
        for at in range(n_sessions):
            sessions.create_task(_one(url, at, number, n_sessions, seconds, start, together, found))
    return found._replace(megabytes=megabytes())


async def _one(url, at, number, n_sessions, seconds, start, together, found) -> None:  # type: ignore[no-untyped-def]
    async with Session(url, "attention", {"text": TEXT.format(WORDS[0])}) as session:
        found.errors.extend(exceptions(await session.open()))
        await together.wait()
        start = max(start, time.monotonic()) + EVERY * at / n_sessions
        for step in range(int(seconds / EVERY)):
            due = start + EVERY * step
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            label, value = _change(at, step)
            if label == "Text":
                found.texts.add(value)
            found.errors.extend(exceptions(await session.put(label, value)))
            found.milliseconds.append(1e3 * (time.monotonic() - due))
        await together.wait()
        due = time.monotonic()
        text = f"All at once, in round {number} of {n_sessions} sessions"
        found.texts.add(text)
        found.errors.extend(exceptions(await session.put("Text", text)))
        found.at_once.append(1e3 * (time.monotonic() - due))


def _change(at: int, step: int) -> tuple[str, str | float]:
    """Return the change a session makes at a step: the label of a widget and its new value."""
    if step % 2:
        return ("Head", "Layer")[step // 2 % 2], float((at + step // 4) % 6)
    if (at + step) % 5 == 0:
        return "Text", f"Tab {at} tells of its {WORDS[step % len(WORDS)]} number {step}"
    return "Text", TEXT.format(WORDS[(step // 2) % len(WORDS)])
