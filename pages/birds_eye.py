"""Bird's-eye view: the whole model as a drawing with live numbers, its parameters, and its place in the course."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

import gptviz
from gptviz import charts
from gptviz.analysis.anatomy import Component, anatomy, parameter_tree, size_table
from gptviz.config import parameter_count
from gptviz.experiments.skeleton import dummy_logits
from gptviz.numerics.sampling import softmax
from gptviz.tokens import Tokens, strings_of
from gptviz.trace import Trace
from gptviz.ui import descriptions, sentences, settings, state, widgets
from gptviz.ui.drawing import Box, Drawing, drawing, in_runs
from gptviz.ui.fragments import fragment
from gptviz.ui.page import About, open_page
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.view import View

MEANINGS = {
    "vocab_size": "how many different tokens there are",
    "context_length": "the most tokens that fit in one text",
    "emb_dim": "numbers per token in the residual stream",
    "n_heads": "attention heads per layer",
    "n_layers": "Transformer blocks, one after the other",
    "drop_rate": "share of numbers that dropout zeroes in training",
    "qkv_bias": "whether queries, keys and values get a learned bias",
}
STAGES = {
    "1 · Foundations": "Tokenizer, embeddings, attention, Transformer blocks: the architecture. *Tokens, Embeddings, "
    "Attention, Transformer block and this page show it.*",
    "2 · Pre-training": "Predict the next token of much text, and lower the loss. *Next token and Residual "
    "stream show what came of it; choose the untrained model to see it before.*",
    "3 · Fine-tuning": "Go on training for one task, such as following instructions. *Load your own "
    "fine-tuned checkpoint, and every page shows it.*",
}
PAGE_OF = {"tok_emb": "embeddings", "pos_emb": "embeddings", "final_norm": "residual", "out_head": "next_token"}
PAGE_OF_BLOCK_PART = {"att": "attention"}  # all other parts of a block open the block page
CHIPS_SHOWN = 24

ABOUT = About(
    "Bird's-eye view",
    "Bird's-eye view",
    "The whole of GPT-2, with the numbers of your text. Follow the arrows from the top down: tokens become vectors, "
    "every Transformer block adds to them, and the last vector says what comes next. **Click a part to open it.**",
)


def show(view: View) -> None:
    """Draw the page."""
    show_drawing(view)
    show_sentences(view)
    show_parameters(view)
    show_configuration(view)
    show_stages()
    show_skeleton(view)


# --- the drawing -------------------------------------------------------------------------------


@fragment
def show_drawing(view: View) -> None:
    """Draw the model, with one block unfolded. The switch is below: the drawing needs the window's height."""
    unfolded = state.within(settings.UNFOLDED, -1, view.config["n_layers"] - 1)
    parts = model_drawing(view.trace(), unfolded, explained=state.get(settings.EXPLAINED))
    clicked = drawing(parts, on_fold=fold, on_open=lambda: None, key="drawing")
    widgets.entry(st.toggle, settings.EXPLAINED, "Explain each part")
    if clicked.open is not None:
        name, _, layer = clicked.open.partition(" ")
        if layer:
            state.put(settings.LAYER, int(layer))
        open_page(name)


def model_drawing(trace: Trace, unfolded: int, *, explained: bool) -> Drawing:
    """Return the whole model's boxes with the numbers of a text. Only the block `unfolded` is open; -1: none is."""
    text: Box = {
        "title": "Your text",
        "kind": "tokens",
        "page": "tokens",
        "chips": list(shortened(trace.tokens)),
        "shape": f"[1, {len(trace):,}] token ids",
    }
    prediction: Box = {
        "title": "Next token",
        "kind": "tokens",
        "page": "next_token",
        "chips": [f"{row.token} {row.probability:.1%}" for row in trace.top_k(k=3).itertuples()],
    }
    components = anatomy(trace, unfolded=unfolded)
    embeddings = [component for component in components if component.name.endswith("_emb")]
    blocks = [component for component in components if component.name.startswith("trf_blocks.")]
    head = components[len(embeddings) + len(blocks) :]
    explained_block = max(unfolded, 0) if explained else -1  # one is enough: they differ only in their numbers
    return {
        "text": [text],
        "embeddings": [box(component, explained) for component in embeddings],
        "blocks": in_runs([block_box(block, layer, layer == explained_block) for layer, block in enumerate(blocks)]),
        "head": [*(box(component, explained) for component in head), prediction],
    }


def block_box(block: Component, layer: int, explained: bool) -> Box:
    """Return a block as a box that folds; if it is unfolded, with its parts inside."""
    made = box(block, explained)
    made["fold"] = layer
    if block.inside:
        made["inside"] = [box(part, explained) for part in block.inside]
    return made


def box(component: Component, explained: bool) -> Box:
    """Return a component as a box, with the shape and length of its output."""
    made: Box = {
        "title": component.title,
        "shape": f"[{', '.join(f'{n:,}' for n in component.shape)}]",
        "kind": "add" if component.shortcut else "part",
    }
    if component.norm is not None:
        made["length"] = f"length {component.norm:,.1f}" + " at the last token" * (component.name == "out_head")
    if component.n_parameters:
        made["parameters"] = f"{component.n_parameters:,} parameters"
    if explained:
        made["explanation"] = component.explanation
    match component.name.split("."):
        case "trf_blocks", layer, part:
            made["page"] = f"{PAGE_OF_BLOCK_PART.get(part, 'block')} {layer}"
        case [part] if part in PAGE_OF:
            made["page"] = PAGE_OF[part]
    return made


def fold() -> None:
    """Unfold the block that was clicked, or fold it again."""
    block = int(state.recall("drawing").fold)
    state.put(settings.UNFOLDED, -1 if block == state.get(settings.UNFOLDED) else block)


def shortened(tokens: Tokens, most: int = CHIPS_SHOWN) -> tuple[str, ...]:
    """Return the tokens' strings; for a long text, only the first and the last ones."""
    if len(tokens) <= most:
        return tokens.strings
    return (*tokens.strings[: most // 2], "…", *tokens.strings[-most // 2 :])


@fragment
def show_sentences(view: View) -> None:
    """Say what is worth seeing in this text, each sentence with links to it."""
    st.header("Worth seeing in this text")
    with st.spinner("Looking for what is worth seeing…"):
        found = sentences.on_text(view)
    st.html(f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in found)}</ul>")


# --- parameters, configuration, stages ---------------------------------------------------------


def show_parameters(view: View) -> None:
    """Show where the parameters are, and the sizes of GPT-2 side by side."""
    config, tied = view.config, view.engine.tied_head
    st.header("Where the parameters are")
    show_picture(parameters, view)
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


@picture("parameters", "Where the parameters are")
def parameters(view: View) -> Chart:
    """A treemap of the model's parameters."""
    tree = parameter_tree(view.config, tied_head=view.engine.tied_head)
    whole, parts = int(tree["parameters"].iloc[0]), tree[tree["parent"] == "model"]
    shares = descriptions.largest(parts["label"].tolist(), parts["parameters"] / whole, descriptions.percent)
    return Chart(
        partial(charts.parameter_treemap, tree),
        f"The model's {whole:,} parameters. The largest of {len(parts)} parts: {shares}.",
    )


def show_configuration(view: View) -> None:
    """Show this model's values for the course's seven configuration keys."""
    st.header("Configuration")
    values = dict(view.config)
    rows = [{"key": key, "value": str(values[key]), "meaning": meaning} for key, meaning in MEANINGS.items()]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def show_stages() -> None:
    """Show the course's three stages, and where this app's pages belong."""
    st.header("Three stages of building an LLM")
    for column, (title, text) in zip(st.columns(3), STAGES.items(), strict=True):
        with column.container(border=True):
            st.markdown(f"**{title}**\n\n{text}")


# --- the skeleton ------------------------------------------------------------------------------


@fragment
def show_skeleton(view: View) -> None:
    """Show the course's skeleton beside the real model: the same shapes, but nothing inside."""
    st.header("The skeleton beside the real model")
    st.markdown(
        "The course begins with `DummyGPTModel`: random embeddings and a random head around **empty** Transformer "
        "blocks. What goes in and what comes out has the same shape, but no attention lets a token see the others: put "
        "the words before the last token in another order, and its prediction stays as it was."
    )
    if widgets.entry(st.toggle, settings.SKELETON, "Run both on your text"):  # slower than the rest of the page
        with st.spinner("Building the skeleton…"):
            table = skeleton_table(view)
        st.dataframe(table, hide_index=True)


def skeleton_table(view: View) -> pd.DataFrame:
    """One row per model: the most probable token after the text, and with the earlier tokens in reverse."""
    tokens = view.tokens
    turned = view.engine.tokenizer.tokens((*reversed(tokens.ids[:-1]), tokens.ids[-1]))
    dummies = view.computed(dummy_logits, view.config, (tokens, turned))
    real = [view.model.trace(text).logits_at(-1) for text in (tokens, turned)]
    shape_in = f"[1, {len(tokens):,}]"
    return pd.DataFrame(
        [
            {
                "model": name,
                "in": shape_in,
                "out": f"[1, {len(tokens):,}, {view.config['vocab_size']:,}]",
                "after your text": first_guess(logits),
                "earlier tokens in reverse": first_guess(logits_turned),
            }
            for name, (logits, logits_turned) in ((view.engine.name, real), ("DummyGPTModel", list(dummies)))
        ]
    )


def first_guess(logits: np.ndarray) -> str:
    """Return the most probable token and its probability."""
    best = int(logits.argmax())
    return f"{strings_of([best])[0]}  {softmax(logits)[best]:.2%}"
