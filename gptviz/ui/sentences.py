"""Sentences about the text and about a head, as HTML whose names are links: see `gptviz.ui.links`."""

import html
from collections.abc import Iterator
from typing import Any

from gptviz.analysis.highlights import (
    answer_depth,
    answer_writer,
    clear_kind,
    most_attended,
    most_surprising,
    strongest_heads,
)
from gptviz.analysis.prediction import foreseen_token, prediction_table
from gptviz.experiments.head_ablation import head_effect
from gptviz.interventions import Part
from gptviz.numerics.clear_kinds import sentence
from gptviz.tokens import strings_of
from gptviz.ui import settings
from gptviz.ui.links import head_link, link
from gptviz.ui.settings import Setting
from gptviz.ui.view import View

MOST_KINDS = 2  # heads named on the first page
NO_CHANGE = 0.005  # nats: less is written as "0.00"


def on_head(view: View, layer: int, head: int, token: int) -> str:
    """Say what a head does on this text, and where it looks from a token."""
    clear = view.computed(clear_kind, view.trace(), layer, head)
    kind = f"is {sentence(clear)}" if clear else "has no clear kind on this text"
    key = most_attended(view.trace(), layer, head, token)
    return (
        f"{head_link(layer, head)} {kind}. From {_token(view.strings[token])} it looks most at {_token(key.token)}, "
        f"position {key.position} ({key.weight:.2f})."
    )


def on_absence(view: View, layer: int, head: int, token: int) -> str:
    """Say what the absence of a head changes after a token. This takes one more pass through the model."""
    trace = view.trace()
    id = foreseen_token(trace, token)
    change = view.computed(head_effect, trace, token, id, layer, head)
    name = _token(strings_of([id])[0])
    if abs(change) < NO_CHANGE:
        return f"Without it, the log-probability of {name}, which comes next, stays the same."
    return f"Without it, {name}, which comes next, {'loses' if change < 0 else 'gains'} {abs(change):.2f} nats."


def on_text(view: View) -> list[str]:
    """Say what is worth seeing in this text, in a few sentences."""
    return [*_on_kinds(view), *_on_answer(view), *_on_surprise(view)]


def _on_kinds(view: View) -> Iterator[str]:
    for found in view.computed(strongest_heads, view.trace())[:MOST_KINDS]:
        yield f"{head_link(found.layer, found.head)} is {sentence(found.clear)}."


def _on_answer(view: View) -> Iterator[str]:
    trace = view.trace()
    depth, writer = view.computed(answer_depth, trace), view.computed(answer_writer, trace)
    if depth is not None:
        lens = link("logit lens", "residual", {settings.TOKEN: settings.TOKEN.default})
        yield f"In the {lens}, {_token(depth.token)} leads after the last token from {html.escape(depth.label)} on."
    if writer is not None:
        off: dict[Setting[Any], Any] = {
            settings.OFF: [str(Part("head", writer.layer, writer.head))],
            settings.TOKEN: settings.TOKEN.default,
        }
        yield (
            f"Of all heads, {head_link(writer.layer, writer.head)} adds most to the logit of {_token(writer.token)}: "
            f"{writer.contribution:.2f} of {writer.logit:.2f}. {link('What is lost without it?', 'ablation', off)}"
        )


def _on_surprise(view: View) -> Iterator[str]:
    found = most_surprising(view.computed(prediction_table, view.trace()))
    if found is not None:
        there = link(found.token, "next_token", {settings.TOKEN: found.position - 1})
        yield (
            f"The token that surprised the model most is {there}, at position {found.position}: "
            f"{found.surprisal_bits:.1f} bits, a probability of {found.probability:.2%}."
        )


def _token(string: str) -> str:
    return f"<code>{html.escape(string)}</code>"
