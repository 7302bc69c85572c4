"""Expanders and the merge slider, without a browser: a link opens what was open, and a click changes the link."""

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates
from streamlit.testing.v1 import AppTest
from test_app import check_page, go_to, notices, open_page, served_as_an_app, this_machine  # noqa: F401 - fixtures

from gptviz.tokens import gpt2_tokenizer
from gptviz.ui.settings import Fold

TEXT = "The cat sat on the mat. The cat"
WORD = "extraordinary"
# Each fold's page, what else its link needs, and a part of what it holds: a table's columns, or a button.
FOLDS = {
    Fold.SINK: ("attention", {}, {"switch-bos"}),
    Fold.OPERANDS: ("block", {"step": "query"}, {"x", "weight", "products"}),
    Fold.TEMPERATURES: ("residual", {"calibrated": "1"}, {"depth", "temperature"}),
    Fold.ATTRIBUTION: ("residual", {}, {"part", "contribution"}),
    Fold.CANDIDATES: ("next_token", {}, {"drawn", "logit"}),
    Fold.PREDICTIONS: ("next_token", {}, {"surprisal_nats", "rank"}),
}
EVERY_FOLD = pytest.mark.parametrize(("fold", "page", "query", "content"), [(fold, *FOLDS[fold]) for fold in FOLDS])


def holds(app, content):
    made = [{button.key for button in app.button}, *(set(frame.value.columns) for frame in app.dataframe)]
    return any(content <= names for names in made)


def expander(app, fold):
    (place,) = [place for place in app.expander if place.proto.id.endswith(f"-fold-{fold}")]
    return place


def is_open(app, fold):
    return expander(app, fold).proto.expanded


def send(app, fold, **value):
    """Send what a browser sends when this expander is clicked. `AppTest` has no click for it."""
    states = app._tree.get_widget_states()
    states.widgets.append(WidgetState(id=expander(app, fold).proto.id, **value))
    return app._run(states)


def address(app):
    """Return the query parameters, which `AppTest` holds as a list each once they have come through the app."""
    return {name: word[0] if isinstance(word, list) else word for name, word in app.query_params.items()}


# --- expanders --------------------------------------------------------------------------------------


def test_every_fold_is_tested():
    assert FOLDS.keys() == set(Fold)
    assert not any("-" in fold for fold in Fold), "the link has hyphens between the names"


@EVERY_FOLD
def test_a_link_opens_exactly_its_folds(fold, page, query, content):
    app = open_page(page, text=TEXT, open=fold, **query)
    check_page(app, page)
    assert holds(app, content)
    assert [place.proto.id.rpartition("-")[2] for place in app.expander if place.proto.expanded] == [fold]
    assert address(app) == {"text": TEXT, "open": fold} | query
    assert not notices(app)


@EVERY_FOLD
def test_a_click_opens_a_fold_and_the_next_one_closes_it(fold, page, query, content):
    app = open_page(page, text=TEXT, **query)
    assert not holds(app, content), "what is folded is not made"
    send(app, fold, bool_value=True)
    check_page(app, page)
    assert is_open(app, fold)
    assert holds(app, content)
    assert address(app) == {"text": TEXT, "open": fold} | query
    send(app, fold, bool_value=False)
    check_page(app, page)
    assert not is_open(app, fold)
    assert not holds(app, content)
    assert address(app) == {"text": TEXT} | query


def test_a_fold_that_a_link_opened_can_be_closed():
    app = open_page("residual", text=TEXT, open="attribution-sink")
    send(app, Fold.ATTRIBUTION, bool_value=False)
    assert not is_open(app, Fold.ATTRIBUTION)
    assert address(app) == {"text": TEXT, "open": "sink"}
    go_to(app, "attention")
    assert is_open(app, Fold.SINK)
    go_to(app, "residual")
    assert not is_open(app, Fold.ATTRIBUTION)


def test_folds_stay_open_from_page_to_page():
    app = open_page("residual", text=TEXT)
    send(app, Fold.ATTRIBUTION, bool_value=True)
    go_to(app, "tokens")
    assert address(app) == {"text": TEXT, "open": "attribution"}
    go_to(app, "residual")
    assert is_open(app, Fold.ATTRIBUTION)
    assert holds(app, {"part", "contribution"})


def test_unknown_folds_of_a_link_are_left_out_and_it_says_so_once():
    app = open_page("residual", text=TEXT, open="all-attribution-<b>-Sink")
    check_page(app, "residual")
    assert notices(app) == ["The link's open has names that are unknown here, so they are left out."]
    assert is_open(app, Fold.ATTRIBUTION)
    assert address(app) == {"text": TEXT, "open": "attribution"}
    app.run()
    assert not notices(app)


def test_a_fold_shows_the_setting():
    app = open_page("residual", text=TEXT, open="attribution")
    app.session_state["_settings"]["open"] = []
    app.run()
    assert not is_open(app, Fold.ATTRIBUTION)
    assert not holds(app, {"part", "contribution"})


@pytest.mark.parametrize("link", [{}, {"open": "attribution"}])
@pytest.mark.parametrize("forged", [{"string_value": "x"}, {"double_value": 2.0}, {"json_value": "[]"}])
def test_a_forged_state_of_a_fold_changes_nothing(link, forged):
    app = open_page("residual", text=TEXT, **link)
    send(app, Fold.ATTRIBUTION, **forged)
    check_page(app, "residual")
    assert is_open(app, Fold.ATTRIBUTION) is bool(link)
    assert address(app) == {"text": TEXT} | link


def test_a_fold_that_was_opened_before_the_session_began_stays_open(monkeypatch):
    """After a restart of the server, a browser sends what it shows to a session that has never seen it."""
    before = expander(open_page("residual", text=TEXT), Fold.ATTRIBUTION).proto.id
    shown = WidgetStates(widgets=[WidgetState(id=before, bool_value=True)])
    with monkeypatch.context() as patched:
        patched.setattr(AppTest, "run", lambda app: app._run(shown))
        app = open_page("residual", text=TEXT)
    check_page(app, "residual")
    assert is_open(app, Fold.ATTRIBUTION)
    assert address(app) == {"text": TEXT, "open": "attribution"}


# --- merges -----------------------------------------------------------------------------------------


def merges(app):
    return app.slider(key="merge")


def pieces_said(app):
    return [caption.value for caption in app.caption if "bytes, before any merge" in caption.value]


def test_all_merges_are_shown_at_first():
    app = open_page("tokens", text=WORD)
    n_merges = len(gpt2_tokenizer().merges(WORD)) - 1
    assert (merges(app).value, merges(app).max) == (n_merges, n_merges)
    assert any(f"Merge {n_merges} of {n_merges}:" in caption.value for caption in app.caption)
    assert address(app) == {"text": WORD}


def test_a_link_shows_its_merge():
    app = open_page("tokens", text=WORD, merge="3")
    assert merges(app).value == 3
    assert any("Merge 3 of " in caption.value for caption in app.caption)
    assert pieces_said(open_page("tokens", text=WORD, merge="0")) == [f"{len(WORD)} bytes, before any merge."]


def test_the_merge_is_in_the_link_until_all_are_done():
    app = open_page("tokens", text=WORD)
    merges(app).set_value(2).run()
    assert any("Merge 2 of " in caption.value for caption in app.caption)
    assert address(app) == {"text": WORD, "merge": "2"}
    merges(app).set_value(merges(app).max).run()
    assert address(app) == {"text": WORD}


def test_another_word_shows_all_of_its_merges():
    text = f"{WORD} unbelievably"
    app = open_page("tokens", text=text, merge="1")
    app.selectbox(key="word").select(1).run()
    assert merges(app).value == merges(app).max == len(gpt2_tokenizer().merges(" unbelievably")) - 1
    assert address(app) == {"text": text, "word": "1"}


@pytest.mark.parametrize(("asked", "nearest"), [("99", "{last}"), ("-7", "-1"), ("9" * 40, "{last}")])
def test_a_merge_that_the_word_does_not_have_is_the_nearest(asked, nearest):
    app = open_page("tokens", text=WORD, merge=asked)
    last = len(gpt2_tokenizer().merges(WORD)) - 1
    (notice,) = notices(app)
    assert notice.endswith(f"the nearest here is {nearest.format(last=last)}.")
    assert merges(app).value == last


def test_a_shorter_word_has_fewer_merges():
    app = open_page("tokens", text=WORD, merge="4")
    app.text_area(key="text").set_value("the").run()
    check_page(app, "tokens")
    assert merges(app).value == merges(app).max == len(gpt2_tokenizer().merges("the")) - 1
    assert not notices(app)


def test_a_word_without_merges_has_no_slider():
    app = open_page("tokens", text="\u0710", merge="5")
    check_page(app, "tokens")
    assert not app.slider
    assert pieces_said(app) == ["2 bytes, before any merge."]
