"""Embeddings: the vectors that tokens and positions begin with, their sum, and their neighbours."""

from functools import partial

import streamlit as st

from gptviz import charts
from gptviz.analysis.embeddings import nearest_tokens
from gptviz.numerics.vectors import cosine_similarity, norms, principal_components
from gptviz.tokens import Tokens
from gptviz.trace import Array
from gptviz.ui import descriptions, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import Embedding
from gptviz.ui.view import View

KINDS = {Embedding.TOKEN: "Token", Embedding.POSITIONAL: "Positional", Embedding.SUMMED: "Summed"}
DIMENSIONS_SHOWN = 8
POSITIONS_SHOWN = 256  # at most, on each side of the picture of all positions

ABOUT = About(
    "Embeddings",
    "Embeddings",
    "Each token id picks a row of the [[token embedding]], each position a row of the [[positional embedding]]. Their "
    "sum is the vector that enters the first Transformer block: the start of the residual stream.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_vectors(view)
    show_neighbours(view)
    show_positions(view)


def vectors(view: View, kind: str) -> Array:
    """Return one of the three embeddings of the text's tokens: [pos, emb_dim]."""
    trace = view.trace()
    return trace["resid_pre", 0] if kind == Embedding.SUMMED else trace[kind]


@fragment
def show_vectors(view: View) -> None:
    """Show one of the three embeddings as a heat map, the lengths of all three, and the similarity of tokens."""
    widgets.choice(st.segmented_control, settings.EMBEDDING, "Embedding", KINDS)
    show_picture(embedding_map, view)
    lengths_column, cosines_column = st.columns(2, gap="large")
    with lengths_column:
        st.header("Length of each vector")
        show_picture(embedding_lengths, view, across=1 / 2)
    with cosines_column:
        st.header("Cosine similarity between tokens")
        show_picture(embedding_cosines, view, across=1 / 2)
    show_components(view)


@picture("embedding-map", "An embedding of every token", settings.EMBEDDING)
def embedding_map(view: View, embedding: str) -> Chart:
    """An embedding as a heat map: one row per token, one column per dimension."""
    shown = vectors(view, embedding)
    dimensions = descriptions.numbered("dimension", shown.shape[1])
    extremes = descriptions.extreme_cells(shown, descriptions.placed(view.strings), dimensions)
    return Chart(
        partial(charts.dimension_map, shown, view.strings), f"{KINDS[Embedding(embedding)]} embedding: {extremes}."
    )


@picture("embedding-lengths", "Lengths of the embeddings")
def embedding_lengths(view: View) -> Chart:
    """The lengths of all three embeddings over the text."""
    lengths = {name: norms(vectors(view, kind)) for kind, name in KINDS.items()}
    names = descriptions.placed(view.strings)
    longest = [f"{kind.lower()}: {descriptions.largest(names, values, most=1)}" for kind, values in lengths.items()]
    return Chart(
        partial(charts.token_lines, lengths, view.strings, what="Euclidean length"),
        f"The longest embedding of each kind: {descriptions.listed(longest)}.",
    )


@picture("embedding-cosines", "Cosine similarity between the embeddings of the text", settings.EMBEDDING)
def embedding_cosines(view: View, embedding: str) -> Chart:
    """The cosine similarity between the embeddings of every two tokens."""
    cosines = cosine_similarity(vectors(view, embedding))
    names = descriptions.placed(view.strings)
    extremes = descriptions.extreme_cells(descriptions.past(cosines, itself=False), names, names)
    return Chart(
        partial(charts.token_pair_map, cosines, view.strings, what="cosine similarity", limit=1.0),
        f"Cosine similarity between the {KINDS[Embedding(embedding)].lower()} embeddings of two tokens: {extremes}.",
    )


@fragment
def show_components(view: View) -> None:
    """Show the tokens along their main directions."""
    st.header("The tokens along their main directions")
    if len(view.tokens) < 3:
        st.caption("With fewer than three tokens there are no directions to tell apart: type a longer text.")
        return
    # Three dimensions are optional, because a WebGL scene takes longer to draw than the rest of the page.
    in_3d = widgets.entry(st.toggle, settings.IN_3D, "In three dimensions")
    kind = state.get(settings.EMBEDDING)
    show_picture(components, view)
    explained = principal_components(vectors(view, kind), n_components(in_3d)).explained
    st.caption(
        f"Principal components of the {KINDS[Embedding(kind)].lower()} embeddings of this text; together the "
        f"{n_components(in_3d)} hold {explained.sum():.0%} of the variance."
    )


@picture("components", "The tokens along their main directions", settings.EMBEDDING, settings.IN_3D)
def components(view: View, embedding: str, in_3d: bool) -> Chart | None:
    """The tokens along the first principal components; None for fewer than three tokens."""
    if len(view.tokens) < 3:
        return None
    found = principal_components(vectors(view, embedding), n_components(in_3d))
    names = descriptions.placed(view.strings)
    along = [descriptions.extremes(names, coordinates) for coordinates in found.coordinates.T]
    told = [
        f"Component {number} ({share:.0%}): {extremes}."
        for number, share, extremes in zip(range(1, 4), found.explained, along, strict=False)
    ]
    return Chart(partial(charts.principal_scatter, found.coordinates, view.strings, found.explained), " ".join(told))


def n_components(in_3d: bool) -> int:
    """Return how many main directions are shown."""
    return 3 if in_3d else 2


@fragment
def show_neighbours(view: View) -> None:
    """Show the tokens in the whole vocabulary that are nearest to a token of the text or to any word."""
    st.header("Nearest tokens in the whole vocabulary")
    token_column, word_column = st.columns(2)
    token = widgets.position(token_column, view.strings, "Token of the text")
    word = widgets.entry(
        word_column.text_input,
        settings.PROBE,
        "Or any word",
        placeholder="such as: king",
        help="Its first token counts; a space counts.",
    )
    probe = probed(view, token, word)
    if len(probe) > 1:
        st.caption(f"{code(''.join(probe.strings))} is {len(probe)} tokens; the first is {code(probe.strings[0])}.")
    show_picture(neighbours, view)


@picture("neighbours", "Nearest tokens in the vocabulary", settings.TOKEN, settings.PROBE)
def neighbours(view: View, token: int, probe: str) -> Chart:
    """The ten tokens whose embeddings have the highest cosine similarity with the chosen one."""
    tokens = probed(view, token, probe)
    embeddings, id = view.engine.weights.w_e, tokens.ids[0]
    table = nearest_tokens(embeddings[id], embeddings, view.model.embedding_norms, k=10, without=[id])
    nearest = descriptions.valued(descriptions.tokens(table["token"]), table["cosine"])
    return Chart(
        partial(
            charts.value_bars,
            table["cosine"].to_numpy(),
            table["token"].tolist(),
            what="cosine similarity",
            horizontal=True,
        ),
        f"Nearest to {descriptions.token(tokens.strings[0])}, by cosine similarity: {descriptions.listed(nearest)}.",
    )


def probed(view: View, token: int, word: str) -> Tokens:
    """Return the tokens of a typed word, or the text's token at a position."""
    return view.engine.tokenize(word) if word else view.tokens[token : token + 1]


@fragment
def show_positions(view: View) -> None:
    """Show the positional embedding itself: how alike positions are, and single dimensions over all positions."""
    st.header("The positional embedding itself")
    n_positions, n_dimensions = view.engine.weights.w_pos.shape
    waves_column, similarity_column = st.columns(2, gap="large")
    with waves_column:
        state.several_of(settings.DIMENSIONS, n_dimensions, DIMENSIONS_SHOWN)
        widgets.several(
            st.multiselect,
            settings.DIMENSIONS,
            "Dimensions",
            range(n_dimensions),
            max_selections=DIMENSIONS_SHOWN,
            help="Training made smooth waves of many dimensions.",
        )
        show_picture(position_waves, view, across=1 / 2)
        st.caption(f"The grey part is your text's: {len(view.tokens)} of {n_positions:,} positions.")
    with similarity_column:
        show_picture(position_similarity, view, across=1 / 2)
        if step_of(n_positions) > 1:
            st.caption(f"Every {step_of(n_positions)}th position is shown.")


@picture("waves", "Dimensions of the positional embedding", settings.DIMENSIONS)
def position_waves(view: View, dimensions: list[int]) -> Chart:
    """Chosen dimensions over all positions."""
    table = view.engine.weights.w_pos
    courses = descriptions.courses({f"dimension {dimension}": table[:, dimension] for dimension in dimensions})
    return Chart(
        partial(charts.position_waves, table, dimensions, n_used=len(view.tokens)),
        f"The positional embedding over {len(table):,} positions: {courses}.",
    )


@picture("positions", "Cosine similarity between positions")
def position_similarity(view: View) -> Chart:
    """The cosine similarity between the embeddings of every two positions."""
    table = view.engine.weights.w_pos
    step = step_of(len(table))
    cosines = cosine_similarity(table[::step])
    names = [f"position {position}" for position in range(0, len(table), step)]
    extremes = descriptions.extreme_cells(descriptions.past(cosines, itself=False), names, names)
    return Chart(
        partial(charts.position_similarity, cosines, step), f"Cosine similarity between two positions: {extremes}."
    )


def step_of(n_positions: int) -> int:
    """Return the step between two positions that are shown."""
    return -(-n_positions // POSITIONS_SHOWN)
