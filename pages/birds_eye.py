"""Bird's-eye view: the whole model as a drawing with live numbers, its parameters, and its place in the course."""

import numpy as np
import pandas as pd
import streamlit as st

import gptviz
from gptviz import charts
from gptviz.analysis.anatomy import Component, anatomy, parameter_tree, size_table
from gptviz.config import parameter_count
from gptviz.experiments.skeleton import dummy_logits
from gptviz.numerics.sampling import softmax
from gptviz.tokens import Tokens
from gptviz.ui import look, shared, state
from gptviz.ui.drawing import Box, drawing

MEANINGS = {
    "vocab_size": "how many different tokens there are",
    "context_length": "the most tokens that fit in one text",
    "emb_dim": "numbers per token in the residual stream",
    "n_heads": "attention heads per block",
    "n_layers": "transformer blocks, one after the other",
    "drop_rate": "share of numbers that dropout zeroes in training",
    "qkv_bias": "whether queries, keys and values get a learned bias",
}
PAGE_OF = {"tok_emb": "embeddings", "pos_emb": "embeddings", "final_norm": "residual", "out_head": "next_token"}
PAGE_OF_BLOCK_PART = {"att": "attention"}  # all else of a block: its own page

view = shared.begin(
    "Bird's-eye view",
    "The whole of GPT-2, with the numbers of your text. Read it from the bottom up: tokens become vectors, every "
    "block adds to them, and the last vector says what comes next. **Click a part to open it.**",
)


def boxes(parts: list[Component]) -> list[Box]:
    """The drawing's boxes for these parts, each with what flows out of it."""
    return [box(part) for part in parts]


def box(part: Component) -> Box:
    """One part as a box."""
    size = "" if part.norm is None else f"   length {part.norm:,.1f}"
    size += " at the last token" if part.name == "out_head" and size else ""
    made: Box = {
        "title": part.title,
        "detail": f"{part.n_parameters:,} parameters" if part.n_parameters else "",
        "flow": f"[{', '.join(f'{n:,}' for n in part.shape)}]{size}",
        "explanation": part.explanation if state.get(state.EXPLAINED) and not is_repeated(part) else "",
        "kind": "add" if part.shortcut else "part",
    }
    path = part.name.split(".")
    if path[0] == "trf_blocks" and len(path) == 2:
        made["fold"], made["opened"] = int(path[1]), bool(part.inside)
    elif path[0] == "trf_blocks":
        made["page"] = f"{PAGE_OF_BLOCK_PART.get(path[2], 'block')} {path[1]}"
    elif part.name in PAGE_OF:
        made["page"] = PAGE_OF[part.name]
    if part.inside:
        made["inside"] = boxes(list(part.inside))
    return made


def is_repeated(part: Component) -> bool:
    """Whether another block has the same explanation: of the folded ones, the last one's is enough."""
    last = f"trf_blocks.{view.engine.config['n_layers'] - 1}"
    return part.title.startswith("Transformer block") and not part.inside and part.name != last


def fold() -> None:
    """A click on a block unfolds it, or folds it again."""
    block = int(state.recall("drawing").fold)
    state.put(state.UNFOLDED, -1 if block == state.get(state.UNFOLDED) else block)


@st.fragment
def show_drawing() -> None:
    """The model, with one block unfolded in place."""
    trace = view.trace()
    st.toggle("Explain each part", key=state.EXPLAINED.name)
    unfolded = state.within(state.UNFOLDED, -1, view.engine.config["n_layers"] - 1)
    prediction = trace.top_k(k=3)
    n_tokens = len(trace)
    clicked = drawing(
        [
            {"title": "Your text", "kind": "tokens", "chips": list(short(trace.tokens)), "page": "tokens",
             "flow": f"[1, {n_tokens:,}] token ids"},
            *boxes(anatomy(trace, unfolded=unfolded)),
            {"title": "Next token", "kind": "tokens", "page": "next_token",
             "chips": [f"{row.token} {row.probability:.1%}" for row in prediction.itertuples()]},
        ],
        on_fold=fold,
        on_open=lambda: None,
        key="drawing",
    )  # fmt: skip
    if clicked.open is not None:
        name, _, layer = clicked.open.partition(" ")
        if layer:
            state.put(state.LAYER, int(layer))
        shared.open_page(name)
    shared.finish()


def short(tokens: Tokens, most: int = 24) -> tuple[str, ...]:
    """The tokens' strings; of a long text the first and the last."""
    if len(tokens) <= most:
        return tokens.strings
    return (*tokens.strings[: most // 2], "…", *tokens.strings[-most // 2 :])


def show_parameters() -> None:
    """Where the parameters are, and the sizes of GPT-2 side by side."""
    config, tied = view.engine.config, view.engine.tied_head
    st.subheader("Where the parameters are")
    look.chart(
        charts.parameter_treemap(parameter_tree(config, tied_head=tied), theme=look.theme()),
        key="parameters",
        alt="A treemap of the model's parameters: embeddings, blocks, and what is in them.",
    )
    once, twice = (parameter_count(config, tied_head=choice) for choice in (True, False))
    st.markdown(
        f"This model has **{view.engine.n_parameters:,}** parameters. The output head has the shape of the token "
        f"embedding. GPT-2 uses one matrix for both (*tied*: {once:,} in all); the course's model has two "
        f"(*untied*: {twice:,} in all)." + (" Here they are tied." if tied else " Here they are untied.")
    )
    sizes = {gptviz.MODELS[name].title: gptviz.MODELS[name].config for name in gptviz.MODELS if name.startswith("gpt2")}
    st.dataframe(
        size_table({f"{view.engine.name} (in use)": config} | sizes),
        hide_index=True,
        column_config={
            "parameters": st.column_config.NumberColumn(format="localized", help="with the tied head, counted once"),
            "megabytes": st.column_config.NumberColumn(format="%.0f", help="in float32, 4 bytes a parameter"),
        },
    )


def show_configuration() -> None:
    """The course's seven keys, as this model has them."""
    st.subheader("Configuration")
    config = view.engine.config
    st.dataframe(
        pd.DataFrame(
            {
                "key": list(MEANINGS),
                "value": [str(config[key]) for key in MEANINGS],  # type: ignore[literal-required]
                "meaning": list(MEANINGS.values()),
            }
        ),
        hide_index=True,
    )


def show_stages() -> None:
    """The course's three stages, and where this app's pages belong."""
    st.subheader("Three stages of building an LLM")
    for column, (title, text) in zip(
        st.columns(3),
        (
            ("1 · Foundations", "Tokenizer, embeddings, attention, blocks: the architecture. *Tokens, Embeddings, "
             "Attention, Transformer block and this page show it.*"),
            ("2 · Pre-training", "Predict the next token of much text, and lower the loss. *Next token and Residual "
             "stream show what came of it; choose the untrained model to see it before.*"),
            ("3 · Fine-tuning", "Go on training for one task, such as following instructions. *Load your own "
             "fine-tuned checkpoint, and every page shows it.*"),
        ),
        strict=True,
    ):  # fmt: skip
        with column.container(border=True):
            st.markdown(f"**{title}**\n\n{text}")


@st.fragment
def show_dummy() -> None:
    """The course's skeleton beside the real model: the same shapes, and nothing inside."""
    st.subheader("The skeleton beside the real model")
    st.markdown(
        "The course begins with `DummyGPTModel`: random embeddings and a random head around **empty** blocks. What "
        "goes in and what comes out has the same shape, but no attention lets a token see the others: put the words "
        "before the last token in another order, and its prediction stays as it was."
    )
    if not st.toggle("Run both on your text", key=state.SKELETON.name):  # it takes longer than all of the page
        shared.finish()
        return
    tokens = view.tokens
    turned = view.engine.tokenizer.tokens((*reversed(tokens.ids[:-1]), tokens.ids[-1]))
    with st.spinner("Building the skeleton…"):
        dummies = view.model.result(tokens, "dummy", lambda: dummy_logits(view.engine.config, [tokens, turned]))
    real = [view.model.trace(text).logits_at(-1) for text in (tokens, turned)]
    shape = f"[1, {len(tokens):,}, {view.engine.config['vocab_size']:,}]"
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "model": name,
                    "in": f"[1, {len(tokens):,}]",
                    "out": shape,
                    "after your text": first_guess(logits),
                    "earlier tokens in reverse": first_guess(logits_turned),
                }
                for name, (logits, logits_turned) in ((view.engine.name, real), ("DummyGPTModel", list(dummies)))
            ]
        ),
        hide_index=True,
    )
    shared.finish()


def first_guess(logits: np.ndarray) -> str:
    """The most probable token and its probability."""
    best = int(logits.argmax())
    return f"{view.engine.tokenizer.tokens([best]).strings[0]}  {softmax(logits)[best]:.2%}"


show_drawing()
show_parameters()
show_configuration()
show_stages()
show_dummy()
