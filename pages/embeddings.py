"""Embeddings: the vectors that tokens and positions begin with, their sum, their neighbours."""

import streamlit as st

from gptviz import charts
from gptviz.analysis.embeddings import nearest_tokens
from gptviz.numerics.vectors import cosine_similarity, norms, principal_components
from gptviz.ui import look, shared, state, widgets

KINDS = {"embed": "Token", "pos_embed": "Positional", "resid_pre": "Summed"}
DIMENSIONS_SHOWN = 8
POSITIONS_SHOWN = 256  # on each side of the picture of all positions

view = shared.begin(
    "Embeddings",
    "Each token id picks a row of the **token embedding**, each position a row of the **positional embedding**. Their "
    "sum is the vector that enters the first block: the start of the residual stream.",
)
trace = view.trace()
strings = view.tokens.strings
vectors = {
    "embed": trace["embed"],
    "pos_embed": trace["pos_embed"],
    "resid_pre": trace["resid_pre", 0],
}


@st.fragment
def show_vectors() -> None:
    """One of the three embeddings as a heat map, the lengths of all, and the angles between tokens."""
    state.one_of(state.KIND, list(KINDS))
    st.segmented_control("Embedding", list(KINDS), format_func=KINDS.__getitem__, key=state.KIND.name, required=True)
    kind = state.get(state.KIND)
    look.chart(
        charts.dimension_map(vectors[kind], strings, theme=look.theme()),
        key="embedding-map",
        alt=f"{KINDS[kind]} embedding: one token a row, one dimension a column.",
    )
    lengths_column, cosines_column = st.columns(2, gap="large")
    with lengths_column:
        st.subheader("Length of each vector")
        lengths = {KINDS[name]: norms(rows) for name, rows in vectors.items()}
        look.chart(
            charts.token_lines(lengths, strings, what="Euclidean length", theme=look.theme()),
            key="embedding-lengths",
            alt="The lengths of the token, positional and summed embedding of every token.",
        )
    with cosines_column:
        st.subheader("Similarity between tokens")
        look.chart(
            charts.token_pair_map(
                cosine_similarity(vectors[kind]), strings, what="cosine", limit=1.0, theme=look.theme()
            ),
            key="embedding-cosines",
            alt=f"Cosine between the {KINDS[kind].lower()} embeddings of every two tokens.",
        )
    show_components()
    shared.finish()


@st.fragment
def show_components() -> None:
    """The tokens along their main directions."""
    st.subheader("The tokens along their main directions")
    if len(strings) < 3:
        st.caption("With fewer than three tokens there are no directions to tell apart: type a longer text.")
        shared.finish()
        return
    # One of the two: a scene in WebGL takes longer to draw than the rest of the page.
    in_3d = st.toggle("In three dimensions", key=state.IN_3D.name)
    n_components = 3 if in_3d else 2
    kind = state.get(state.KIND)
    found = principal_components(vectors[kind], n_components)
    look.chart(
        charts.principal_scatter(found.coordinates, strings, found.explained, theme=look.theme()),
        key="components",
        alt=f"The tokens along the first {n_components} principal components of their embeddings.",
    )
    st.caption(
        f"Principal components of the {KINDS[kind].lower()} embeddings of this text; together the {n_components} hold "
        f"{found.explained.sum():.0%} of the variance."
    )
    shared.finish()


@st.fragment
def show_neighbours() -> None:
    """The nearest tokens in the whole vocabulary, of a token of the text or of any word."""
    st.subheader("Nearest tokens in the whole vocabulary")
    engine = view.engine
    token_column, word_column = st.columns(2)
    chosen = widgets.position(token_column, strings, "Token of the text")
    word_column.text_input(
        "Or any word", key=state.PROBE.name, placeholder="such as: king", help="Its first token counts; a space counts."
    )
    word = state.get(state.PROBE)
    probe = engine.tokenize(word) if word else view.tokens[chosen : chosen + 1]
    if len(probe) > 1:
        st.caption(
            f"{look.code(''.join(probe.strings))} is {len(probe)} tokens; the first is {look.code(probe.strings[0])}."
        )
    embeddings = engine.weights.w_e
    id = probe.ids[0]
    table = nearest_tokens(embeddings[id], embeddings, view.model.embedding_norms, k=10, without=[id])
    look.chart(
        charts.value_bars(
            table["cosine"].to_numpy(), table["token"].tolist(), what="cosine", horizontal=True, theme=look.theme()
        ),
        key="neighbours",
        alt=f"The ten tokens whose embeddings point most nearly the way of {probe.strings[0]}.",
    )
    shared.finish()


@st.fragment
def show_positions() -> None:
    """The positional table itself: how alike positions are, and single dimensions over them."""
    st.subheader("The positional embedding itself")
    table = view.engine.weights.w_pos
    step = -(-len(table) // POSITIONS_SHOWN)
    waves_column, similarity_column = st.columns(2, gap="large")
    with waves_column:
        state.several_of(state.DIMENSIONS, table.shape[1], DIMENSIONS_SHOWN)
        dimensions = st.multiselect(
            "Dimensions", range(table.shape[1]), key=state.DIMENSIONS.name, max_selections=DIMENSIONS_SHOWN,
            help="Training made smooth waves of many dimensions.",
        )  # fmt: skip
        look.chart(
            charts.position_waves(table, dimensions, n_used=len(strings), theme=look.theme()),
            key="waves",
            alt="Chosen dimensions of the positional embedding over all positions.",
        )
        st.caption(f"The grey part is your text's: {len(strings)} of {len(table):,} positions.")
    with similarity_column:
        look.chart(
            charts.position_similarity(cosine_similarity(table[::step]), step, theme=look.theme()),
            key="positions",
            alt="Cosine between the embeddings of every two positions: near ones are alike.",
        )
        if step > 1:
            st.caption(f"Every {step}th position is shown.")
    shared.finish()


show_vectors()
show_neighbours()
show_positions()
