"""The sidebar: the text, the model, the `<|endoftext|>` switch, and the download of a model that is not here yet."""

import time
from functools import partial

import streamlit as st

import gptviz
from gptviz.checkpoints import TooLargeError, check_memory
from gptviz.tokens import END_OF_TEXT
from gptviz.ui import limits, links, look, models, settings, state, widgets
from gptviz.ui.markdown import plain
from gptviz.ui.models import LoadedModel


def controls() -> None:
    """Draw the shared controls in the sidebar."""
    try:
        limits.read()
    except limits.LimitsError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()
    begin_again = partial(state.put, settings.CONTINUATION, ())
    with st.sidebar:
        widgets.entry(
            st.text_area,
            settings.TEXT,
            "Text",
            height=150,
            placeholder="Type any text, in any script…",
            help="Any text. Enter, or a click elsewhere, shows it. Shift+Enter begins a new line.",
            then=begin_again,
        )
        widgets.selectbox(
            st.sidebar,
            settings.MODEL,
            "Model",
            models.names(),
            format_func=models.title,
            help="story-gpt comes with gptviz. OpenAI's models are downloaded once, when you ask for it.",
            then=_forget_model,
        )
        widgets.entry(
            st.toggle,
            settings.BOS,
            f"Put `{END_OF_TEXT}` in front",
            help="GPT-2 saw this token between documents. In front, it says that a text begins here.",
            then=begin_again,
        )
        look.follow_browser()
        links.listen()


def _forget_model() -> None:
    """Reset what belongs to the previous model: its number of heads, and the continuation that it wrote."""
    state.put(settings.CONTINUATION, ())
    state.put(settings.N_HEADS, settings.N_HEADS.default)


def choose_heads(model: LoadedModel) -> int:
    """Let the user pick the number of heads if the model's file does not say. Return it; 0 is the guess."""
    if not model.engine.n_heads_guessed:
        state.put(settings.N_HEADS, settings.N_HEADS.default)
        return 0
    width, guess = model.engine.config["emb_dim"], model.engine.config["n_heads"]
    return widgets.selectbox(
        st.container(),
        settings.N_HEADS,
        "Heads",
        [0, *(number for number in range(1, width + 1) if width % number == 0)],
        format_func=lambda number: f"{number} head{'s' * (number > 1)}" if number else f"{guess} heads, a guess",
        help="The checkpoint does not say how many heads the model has, and with another number it is another model.",
        width=300,
    )


def chosen_model() -> LoadedModel:
    """Return the chosen model, or the model in use while the chosen one is not on this machine or fails to load."""
    wanted = state.get(settings.MODEL)
    if models.on_disk(wanted):
        try:
            with st.spinner(f"Loading {plain(models.title(wanted))}…"):
                model = models.loaded(wanted)
            _check_vocabulary(model.engine)
            state.use_model(wanted)
            return model
        except (gptviz.WeightsError, gptviz.ConfigError) as error:
            st.error(plain(str(error)), icon=":material/error:")
            if not isinstance(error, TooLargeError) and models.remove_damaged(wanted):
                st.warning("The file was damaged on this machine, and was removed.", icon=":material/delete:")
                _offer_download(wanted)
            if wanted == state.model_in_use():  # it was loaded before, but no longer can be
                st.stop()
            st.caption(f"{plain(models.title(state.model_in_use()))} stays in use.")
    else:
        _offer_download(wanted)
    return models.loaded(state.model_in_use())


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
            f"Below you see {plain(in_use)}."
        )
        try:
            check_memory(known.n_bytes)
        except TooLargeError as error:
            st.warning(plain(str(error)), icon=":material/memory_alt:")
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
        st.error(plain(str(error)), icon=":material/cloud_off:")
        return
    st.rerun()
