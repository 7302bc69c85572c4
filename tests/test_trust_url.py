"""Any URL: every link gives a sensible view, with a short notice if the view is not the one asked for.

The notices for common links are tested in test_app.py.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_app import EVERY_PAGE, PAGES, check_page, notices, open_page, served_as_an_app, this_machine  # noqa: F401

import gptviz
from gptviz.ui import models
from gptviz.ui.settings import SETTINGS

# The wire carries only valid UTF-8: see test_trust_text.py.
GARBAGE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "-", "--", "0-", "nan", "-nan", "inf", "-inf", "1e400", "-0.0", "0x10", "1_000", "٣", "½", " 1 "]
    ),
    st.sampled_from(
        ["None", "True", "[]", "{}", "../..", "\x00", "<b>", "%00", "a\nb", "' OR 1=1", "${7*7}", "{{7*7}}"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-20, 20),
    st.integers(-(10**30), 10**30),
    st.integers(1, 9).map(lambda digit: int(str(digit) * 400)),
    st.integers(1, 9).map(lambda digit: -int(str(digit) * 4000)),
    st.floats(),
).map(str)
LISTS = st.lists(st.one_of(st.integers(0, 60_000), st.just(10**50)), max_size=40).map(
    lambda ids: "-".join(str(id) for id in ids)
)
WORDS = st.one_of(
    GARBAGE, NUMBERS, LISTS, st.sampled_from(["one", "all", "finder", "value", "rollout", "logits", "11"])
)
LINKS = st.fixed_dictionaries({}, optional={setting.name: WORDS for setting in SETTINGS})


def check_view(app, page):
    """Assert that the page shows no traceback and no error, and only short notices."""
    check_page(app, page)
    assert not app.error
    assert all(len(notice) < 200 for notice in notices(app))


def explore(page, n_links):
    tried = []

    @settings(max_examples=n_links, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(LINKS)
    def check(link):
        tried.append(link)
        check_view(open_page(page, **link), page)

    check()
    assert len(tried) >= n_links


@EVERY_PAGE
def test_any_link_leads_to_a_view(page):
    explore(page, 3)


@pytest.mark.slow
@EVERY_PAGE
def test_very_many_links_lead_to_a_view(page):
    explore(page, 25)


@pytest.mark.parametrize(
    ("page", "query", "shown", "said"),
    [
        ("attention", {"layer": "9" * 400}, {"layer": 5}, "9999999…; the nearest here is 5"),
        ("block", {"layer": "11", "head": "11"}, {"layer": 5, "head": 5}, "head 11; the nearest here is 5"),
        ("embeddings", {"dimensions": "1-2-2-500"}, {"dimensions": [1, 2]}, "nearest here is 1-2."),
        ("embeddings", {"dimensions": "0-1-2-3-4-5-6-7-8"}, {"dimensions": [*range(8)]}, "here is 0-1-2-3-4-5-6-7."),
        ("embeddings", {"dimensions": "999"}, {"dimensions": []}, "the nearest here is none of these"),
    ],
)
def test_the_nearest_view_is_shown_and_said(page, query, shown, said):
    app = open_page(page, **query)
    check_view(app, page)
    assert {name: app.session_state[name] for name in shown} == shown
    assert any(said in notice for notice in notices(app)), notices(app)


NO_NAMES = [
    "/etc/passwd",
    "../../gptviz/data/story-gpt",
    str(Path(gptviz.__file__).parent / "data" / "story-gpt"),
    "file:///etc/passwd",
    "https://example.org/model.pth",
    "openai-community/gpt2",
    "someone/else",
    "STORY-GPT",
    "story-gpt ",
    "story-gpt\x00",
    "story-gpt/model.safetensors",
    "model.pth",
    "~",
    ".",
    "",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_model_can_only_be_one_of_the_known(monkeypatch, name):
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(gptviz, "load", lambda *call, **how: asked.append(call))
        with pytest.raises(gptviz.WeightsError):
            models.loaded(name)
    assert asked == []
    app = open_page("tokens", model=name)
    check_view(app, "tokens")
    assert notices(app) == ["There is no model of that name here, so the usual one is shown."]
    assert app.session_state["_model_in_use"] == "story-gpt"


def test_a_link_sets_nothing_but_settings():
    names = ["_model_in_use", "_to_write", "_notices", "position", "foo", "drawing"]
    app = open_page("attention", **dict.fromkeys(names, "untrained"))
    check_view(app, "attention")
    assert app.session_state["_model_in_use"] == "story-gpt"
    assert app.query_params == {}
