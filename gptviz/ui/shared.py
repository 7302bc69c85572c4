"""What every page has: the text, the model and the BOS switch; the trace that they lead to; notices, and a last line of
defence.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import NoReturn, ParamSpec

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.scriptrunner import StopException

import gptviz
from gptviz.analysis.finite import not_finite
from gptviz.checkpoints import TooLargeError, check_memory
from gptviz.interventions import Part
from gptviz.tokens import END_OF_TEXT, Tokens
from gptviz.trace import Trace
from gptviz.ui import limits, look, models, state, widgets
from gptviz.ui.models import LoadedModel

EXAMPLE = "The little dog ran to the river. The little dog"
Arguments = ParamSpec("Arguments")
_LOGGER = logging.getLogger(__name__)
_INSIDE = ContextVar("inside", default=False)  # whether a part is being drawn around this one


@contextmanager
def part(name: str) -> Iterator[None]:
    """A part of the app that Streamlit runs by itself: the whole page, or a fragment. `name` tells them apart.

    At its end the new link is written, and what a link asked for in vain is told in one box above the part. Where it
    fails, a sentence says so in that place, the traceback is logged, and the rest of the page goes on. Streamlit's own
    ways to end or begin a run are no `Exception`, and pass.
    """
    place = st.empty()
    is_outermost = not _INSIDE.get()
    token = _INSIDE.set(True)
    try:
        try:
            yield
        except StopException:
            if is_outermost:
                _finish(place)
            raise
        if is_outermost:
            _finish(place)
    except Exception:
        _LOGGER.exception("A part of a page failed: %s", name)
        _tell_of_failure(place, name)
    finally:
        _INSIDE.reset(token)


def fragment(show: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """As `st.fragment`: a part of the page that runs by itself when a widget in it is used."""

    @wraps(show)
    def shown(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with part(show.__name__):
            show(*args, **kwargs)

    return st.fragment(shown)


def _finish(place: DeltaGenerator) -> None:
    """Tell what a link asked for in vain, and write the new link."""
    if notices := state.take_notices():
        place.info("  \n".join(notices), icon=":material/link:")
    state.share()


def _tell_of_failure(place: DeltaGenerator, name: str) -> None:
    with place.container():
        st.error(
            "Something went wrong here. Start the page again: your text and model stay, all other settings go back to "
            "the usual ones.",
            icon=":material/error:",
        )
        st.button("Start this page again", on_click=state.start_again, key=f"start-again-{name}", type="primary")
    with suppress(Exception):  # whatever it is: the sentence is there
        state.share()


@dataclass(frozen=True)
class View:
    """What a page shows: a model, the text's tokens, and how many did not fit in.

    It has the model's name only, and no trace: a page's view lives as long as its tab, and would keep them in memory.
    """

    model_name: str
    tokens: Tokens
    n_left_out: int
    n_heads: int = 0  # where the model's file does not say, and another number than the guess was chosen

    @property
    def model(self) -> LoadedModel:
        """The model, loaded anew if it is no longer kept."""
        return models.loaded(self.model_name, self.n_heads)

    @property
    def engine(self) -> gptviz.Engine:
        """The model's engine."""
        return self.model.engine

    def trace(self, off: tuple[Part, ...] = (), *, by_mean: bool = False) -> Trace:
        """The run of these tokens, with the parts `off` switched off."""
        model = self.model
        known = None if off else model.traces.peek(self.tokens.ids)
        if known is not None:  # also a spinner that is not seen takes a browser's time
            return known
        with st.spinner(f"Running {len(self.tokens):,} tokens through the model…"):
            return model.trace(self.tokens, off, by_mean=by_mean)


def controls() -> None:
    """Draw the shared controls in the sidebar."""
    try:
        limits.read()
    except limits.LimitsError as error:
        st.error(look.plain(str(error)), icon=":material/error:")
        st.stop()
    begin_again = partial(state.put, state.CONTINUATION, ())
    with st.sidebar:
        widgets.entry(
            st.text_area, state.TEXT, "Text", height=150, placeholder="Type any text, in any script…",
            help="Any text. Enter, or a click elsewhere, shows it. Shift+Enter begins a new line.",
            then=begin_again,
        )  # fmt: skip
        widgets.selectbox(
            st.sidebar, state.MODEL, "Model", models.names(), format_func=models.title,
            help="story-gpt comes with gptviz. OpenAI's models are downloaded once, when you ask for it.",
            then=_forget_model,
        )  # fmt: skip
        widgets.entry(
            st.toggle, state.BOS, f"Put `{END_OF_TEXT}` in front",
            help="GPT-2 saw this token between documents. In front, it says that a text begins here.",
            then=begin_again,
        )  # fmt: skip
        look.follow_browser()


def _forget_model() -> None:
    """What was chosen for the last model, and what it wrote, is not the next one's."""
    state.put(state.CONTINUATION, ())
    state.put(state.N_HEADS, state.N_HEADS.default)


def begin(title: str, explanation: str, *, numbers: bool = True, text: bool = True) -> View:
    """Begin a page: its heading, and the model and tokens in question.

    Where there is nothing to show, it says what to do, and ends the page; so also where the page would show the
    `numbers` of a model that gives none. A page that has texts of its own does without the shared `text`.
    """
    _go_through_router()
    st.title(title)
    st.markdown(explanation)
    view = _view(text)
    if not text:
        return view
    if numbers:
        stop_if_broken(view.model, view.trace())
    elif (known := view.model.traces.peek(view.tokens.ids)) is not None:
        _tell_if_broken(view.model, known)
    return view


def _tell_if_broken(model: LoadedModel, trace: Trace) -> bool:
    """Say so where the run gave NaN or infinite numbers."""
    if not model.result(trace.tokens, "broken", lambda: bool(not_finite(trace)["broken"].any())):
        return False  # nearly always: so it is no table that is kept of every text
    table = not_finite(trace)
    first = table[table["broken"] > 0].iloc[0]
    st.error(
        f"This model's numbers are broken: {first['broken']:,} of {first['values']:,} values {first['where']} are NaN "
        "or infinite, and so is what follows from them. Choose another model, or a checkpoint from before its training "
        "went wrong.",
        icon=":material/error:",
    )
    st.dataframe(table, hide_index=True)
    return True


def stop_if_broken(model: LoadedModel, trace: Trace) -> None:
    """End the page where the model's own run of a text gave numbers that are none: they are not drawn as if fine.

    A run with interventions is another one: count its numbers with `not_finite` itself.
    """
    if _tell_if_broken(model, trace):
        st.stop()


def _go_through_router() -> None:
    """Until `st.navigation` is called for the first time, Streamlit takes a folder named `pages` for its older
    kind of app, and runs the page that a link names without app.py. Any call tells it; then start again."""
    if not state.take_start():
        with suppress(StreamlitAPIException):
            st.navigation([])
        st.rerun()


def _view(text: bool) -> View:
    model, n_heads = _model(), 0
    if model.engine.n_heads_guessed:
        n_heads = _choose_heads(model)
        model = models.loaded(model.engine.name, n_heads)
    else:
        state.put(state.N_HEADS, state.N_HEADS.default)
    config = model.engine.config
    for note in model.engine.notes:
        st.info(look.plain(note), icon=":material/info:")
    tokens = model.engine.tokenize(state.get(state.TEXT), bos=state.get(state.BOS))
    if not text:
        return View(model.engine.name, tokens[: config["context_length"]], 0, n_heads)
    if state.too_long_for_link():
        st.caption("This text is too long for a link: the page's address leaves it out.")
    if state.text_left_out():
        st.warning(
            f"The text has {state.text_left_out():,} characters more than this app takes: the last ones are left out.",
            icon=":material/content_cut:",
        )
    if not tokens.ids:
        _empty()
    n_left_out = max(0, len(tokens) - config["context_length"])
    if n_left_out:
        st.warning(
            f"The text has {len(tokens):,} tokens, and this model takes {config['context_length']:,}: "
            f"the last {n_left_out:,} are left out.",
            icon=":material/content_cut:",
        )
    return View(model.engine.name, tokens[: config["context_length"]], n_left_out, n_heads)


def rerun_fragment() -> NoReturn:
    """Call in a fragment: run it again, or the page where the whole page runs (a click after typing does that)."""
    with suppress(StreamlitAPIException):
        st.rerun(scope="fragment")
    st.rerun()


def _empty() -> None:
    st.info(f"There is no text yet. Type one on the left, or put `{END_OF_TEXT}` in front.", icon=":material/edit:")
    st.button("Show me an example", on_click=state.put, args=(state.TEXT, EXAMPLE), type="primary")
    st.stop()


def _model() -> LoadedModel:
    """The chosen model, or the one in use while the chosen one is not on this machine or fails."""
    wanted = state.get(state.MODEL)
    if models.on_disk(wanted):
        try:
            with st.spinner(f"Loading {look.plain(models.title(wanted))}…"):
                model = models.loaded(wanted)
            _check_vocabulary(model.engine)
            state.use_model(wanted)
            return model
        except (gptviz.WeightsError, gptviz.ConfigError) as error:
            st.error(look.plain(str(error)), icon=":material/error:")
            if not isinstance(error, TooLargeError) and models.remove_damaged(wanted):
                st.warning("The file was damaged on this machine, and was removed.", icon=":material/delete:")
                _offer_download(wanted)
            if wanted == state.model_in_use():  # it was loaded before, and no longer can be
                st.stop()
            st.caption(f"{look.plain(models.title(state.model_in_use()))} stays in use.")
    else:
        _offer_download(wanted)
    return models.loaded(state.model_in_use())


def _choose_heads(model: LoadedModel) -> int:
    """Pick the number of heads of a model whose file does not say; 0 is the guess."""
    width, guess = model.engine.config["emb_dim"], model.engine.config["n_heads"]
    return widgets.selectbox(
        st.container(), state.N_HEADS, "Heads", [0, *(number for number in range(1, width + 1) if width % number == 0)],
        format_func=lambda number: f"{number} heads" if number else f"{guess} heads, a guess",
        help="The checkpoint does not say how many heads the model has, and with another number it is another model.",
        width=300,
    )  # fmt: skip


def _check_vocabulary(engine: gptviz.Engine) -> None:
    if engine.config["vocab_size"] < engine.tokenizer.vocab_size:
        raise gptviz.WeightsError(
            f"This model was made for another tokenizer: it knows {engine.config['vocab_size']:,} tokens, "
            f"and GPT-2's tokenizer has {engine.tokenizer.vocab_size:,}."
        )


def _offer_download(name: str) -> None:
    known = gptviz.MODELS[name]
    in_use = (
        gptviz.MODELS[state.model_in_use()].title if state.model_in_use() in gptviz.MODELS else state.model_in_use()
    )
    with st.container(border=True):
        st.markdown(
            f"**{known.title}** is not on this machine yet: about {models.gigabytes(known.n_bytes)} to download, once. "
            f"Below you see {look.plain(in_use)}."
        )
        try:
            check_memory(known.n_bytes)
        except TooLargeError as error:
            st.warning(look.plain(str(error)), icon=":material/memory_alt:")
        asked = st.button(f"Download {known.title}", type="primary", icon=":material/download:")
        if asked or models.download_under_way(name):
            _show_download(name)


def _show_download(name: str) -> None:
    download = models.download(name)
    bar = st.progress(0.0, text="Asking the hub…")
    while not download.future.done():
        if download.n_total:
            done = download.n_bytes / download.n_total
            text = f"{download.n_bytes / 1e6:,.0f} of {download.n_total / 1e6:,.0f} MB"
            bar.progress(min(done, 1.0), text=text if done < 1 else f"{text}: checking what came…")
        time.sleep(0.2)
    bar.empty()
    try:
        download.future.result()
    except gptviz.DownloadError as error:
        st.error(look.plain(str(error)), icon=":material/cloud_off:")
        return
    st.rerun()


def open_page(name: str) -> None:
    """Go to another page; the settings come along."""
    st.switch_page(f"pages/{name}.py")
