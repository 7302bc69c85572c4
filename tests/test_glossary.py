"""The glossary: every term is whole, words find it, and its page opens it."""

import re

import pytest
from page_table import MODULES
from test_app import check_page, open_page, served_as_an_app, this_machine  # noqa: F401 - fixtures

from gptviz.analysis.arithmetic import STEPS
from gptviz.ui.glossary import TERMS, find, tooltip

PAGE_NAMES = {module.__name__.rpartition(".")[2] for module in MODULES}
EVERY_TERM = pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
# LaTeX commands that KaTeX knows.
COMMANDS = r"""
    alpha approx bar begin beta cdot cos end epsilon frac gamma ge in infty int ldots le left ln log lVert mathrm mid
    nabla odot partial pi qquad quad right rVert sigma sqrt sum tanh text theta to top , ; { } | \
""".split()  # noqa: SIM905 - commands in a list of strings would be hard to read


def names(terms):
    return [term.name for term in terms]


# --- the terms --------------------------------------------------------------------------------------


def test_the_terms_are_in_alphabetical_order_and_each_has_a_name_of_its_own():
    lowered = [name.casefold() for name in names(TERMS)]
    assert lowered == sorted(set(lowered))
    assert len(lowered) > 40


@EVERY_TERM
def test_a_definition_is_one_or_two_plain_sentences(term):
    assert re.fullmatch(r"[^.]+\.( [^.]+\.)?", term.definition)
    assert not set(term.definition) & set("*_`$[]<>&|~#\\"), "it stands in HTML titles too"
    assert len(term.definition) < 250


@EVERY_TERM
def test_a_term_is_shown_on_a_page_that_exists(term):
    assert term.page in PAGE_NAMES - {"glossary"}


@EVERY_TERM
def test_a_source_names_authors_year_and_title(term):
    assert not term.source or re.fullmatch(r'[^\W\d][\w .-]+ (1[89]|20)\d\d, "[^"]+"', term.source)


@EVERY_TERM
def test_a_formula_is_whole(term):
    commands = re.findall(r"\\([A-Za-z]+|.)", term.formula)
    assert set(commands) <= set(COMMANDS)
    assert commands.count("left") == commands.count("right")
    assert commands.count("begin") == commands.count("end")
    depth = 0
    for brace in re.findall(r"\\.|[{}]", term.formula):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0
    assert depth == 0
    assert term.formula.isascii()


@pytest.mark.parametrize(("name", "step"), [("LayerNorm", "norm1"), ("GELU", "gelu")])
def test_a_formula_is_that_of_the_step_which_computes_it(name, step):
    (term,) = (term for term in TERMS if term.name == name)
    assert term.formula.endswith(STEPS[step].formula)


def test_a_tooltip_is_the_definition():
    assert tooltip("Weight tying").startswith("The output head uses the same matrix")
    with pytest.raises(KeyError):
        tooltip("weight tying or so")


# --- finding them -----------------------------------------------------------------------------------


def test_no_words_find_every_term():
    assert find("") == find("  ") == TERMS


def test_a_terms_own_name_finds_it_first():
    for term in TERMS:
        assert find(term.name.upper())[0] == term


def test_words_are_found_in_names_before_definitions():
    found = find("head")
    assert names(found[:2]) == ["Head", "Duplicate-token head"]
    is_named = ["head" in name.casefold() for name in names(found)]
    assert is_named == sorted(is_named, reverse=True)
    assert not all(is_named)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("unembedding", "Output head"),
        ("cross-entropy", "Loss"),
        ("feed-forward", "MLP"),
        ("residual connection", "Shortcut connection"),
        ("nucleus sampling", "Top-p"),
        ("attention pattern", "Attention weight"),
        ("mean ablation", "Ablation"),
        ("stream residual", "Residual stream"),
    ],
)
def test_other_names_and_words_in_any_order_find_a_term(words, name):
    assert name in names(find(words))


def test_unknown_words_find_nothing():
    assert find("no such word") == ()


# --- the page ---------------------------------------------------------------------------------------


def formulas(app):
    return [element.value for element in app.latex]


def labels(app):
    return [place.label for place in app.expander]


def test_the_page_lists_every_term_and_makes_no_formula():
    app = open_page("glossary")
    check_page(app, "glossary")
    assert labels(app) == [f"**{term.name}.** {term.definition}" for term in TERMS]
    assert formulas(app) == []
    assert not app.button


def test_a_link_opens_a_term_and_its_button_opens_its_page():
    app = open_page("glossary", term="logit lens")
    check_page(app, "glossary")
    (term,) = (term for term in TERMS if term.name == "Logit lens")
    assert [heading.value for heading in app.header] == ["Logit lens"]
    assert [formula.strip("$\n") for formula in formulas(app)] == [term.formula]
    assert term.source in [caption.value for caption in app.caption]
    (button,) = app.button
    assert button.label == "Open Residual stream"
    button.click().run()
    check_page(app, "residual")
    assert app.query_params == {"term": "logit lens"}


def test_what_is_typed_finds_terms():
    app = open_page("glossary")
    app.text_input(key="term").set_value("gradient").run()
    check_page(app, "glossary")
    assert [heading.value for heading in app.header] == ["Gradient"]
    assert 2 <= len(labels(app)) < 10
    assert all("radient" in label for label in labels(app))
    assert app.query_params == {"term": "gradient"}


def test_a_lone_find_is_open():
    app = open_page("glossary", term="nucleus")
    assert [heading.value for heading in app.header] == ["Top-p"]
    assert labels(app) == []


@pytest.mark.parametrize("words", ["no such word", "`<b>` $x$ :red[y]\n\n# h", "x" * 2000])
def test_nothing_found_is_a_sentence_and_a_way_back(words):
    app = open_page("glossary", term=words)
    check_page(app, "glossary")
    (told,) = app.info
    assert told.value.startswith("The glossary has no `")
    assert "\n" not in told.value
    assert len(told.value) < 150
    app.button(key="all-terms").click().run()
    assert len(labels(app)) == len(TERMS)
    assert app.query_params == {}
