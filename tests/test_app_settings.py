"""Valid settings, the values a widget is sent, and what happens if part of a page fails."""

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetState
from test_app import check_page, failed, go_to, open_page, position, served_as_an_app, this_machine  # noqa: F401

import gptviz.charts
import pages.tokens
from gptviz.ui import look, models, settings, state
from gptviz.ui.settings import DECIMAL, IDS, NAMES, NUMBERS, PARTS, SETTINGS, STRING, SWITCH, WHOLE

FAULT = "a fault made by a test"
ANYTHING = [None, True, 3, 3.0, float("nan"), float("inf"), "12 · ␣dog", (1, 2), [1, 2], ["L5H2"], ["a"], {}, b"x"]


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (STRING, ["12 · ␣dog"]),
        (WHOLE, [3]),
        (DECIMAL, [3.0]),
        (SWITCH, [True]),
        (IDS, [(1, 2)]),
        (NUMBERS, [[1, 2]]),
        (NAMES, [["L5H2"], ["a"]]),
        (PARTS, [["L5H2"]]),
    ],
)
def test_a_setting_takes_values_of_its_kind_only(kind, taken):
    assert [value for value in ANYTHING if kind.takes(value)] == taken


def test_every_setting_takes_its_own_default_and_what_it_writes():
    for setting in SETTINGS:
        assert setting.kind.takes(setting.default)
        assert setting.kind.read(setting.kind.write(setting.default)) == setting.default


def settings_of(app):
    return app.session_state["_settings"]


@pytest.mark.parametrize(
    ("page", "widget", "label"),
    [
        ("attention", "position", "12 · ␣dog"),
        ("attention", "reading", "Weights of another page"),
        ("attention", "model", "no such model"),
        ("tokens", "word", "gone"),
        ("compare", "other_model", "no such model"),
    ],
)
def test_a_label_that_is_no_option_changes_nothing(monkeypatch, page, widget, label):
    """A browser may send one if it still shows the previous text or model, or if someone tampers with it."""
    app = open_page(page, text="One two three")
    before = dict(settings_of(app))
    (box,) = [box for box in app.selectbox if box.key == widget]
    usual = type(box)._widget_state
    forged = WidgetState(id=box.id, string_value=label)
    monkeypatch.setattr(
        type(box), "_widget_state", property(lambda self: forged if self.id == forged.id else usual.fget(self))
    )
    app.run()
    check_page(app, page)
    assert settings_of(app) == before
    assert app.query_params in ({"text": "One two three"}, {"text": ["One two three"]})


def test_a_widget_is_told_nothing_that_it_shows():
    """The browser treats any value it is sent as newer than a key pressed in the meantime."""
    app = open_page("next_token", temperature="0.5")
    for value in (0.55, 0.6):
        app.slider(key="temperature").set_value(value).run()
        told = [
            box.label for box in (*app.slider, *app.number_input, *app.text_area, *app.toggle) if box.proto.set_value
        ]
        assert told == []
    app.button(key="add-one").click().run()
    assert not app.text_area(key="text").proto.set_value


def test_a_widget_is_told_what_it_does_not_show():
    app = open_page("patching")
    app.button(key="pair-1").click().run()
    assert app.text_input(key="clean").proto.set_value
    assert app.text_input(key="clean").value.startswith("The old man")


# --- failing parts ----------------------------------------------------------------------------------


def fails(*_, **__):
    raise ZeroDivisionError(FAULT)


def fails_for(setting, value, usual):
    return lambda *args, **how: fails() if state.get(setting) == value else usual(*args, **how)


@pytest.mark.fails
def test_a_fragment_that_fails_is_a_sentence_and_the_rest_of_the_page_is_there(monkeypatch, caplog):
    usual = gptviz.charts.lens_map
    monkeypatch.setattr(gptviz.charts, "lens_map", fails_for(settings.TOKEN, 1, usual))
    app = open_page("residual", text="One two three", bos="1")
    check_page(app, "residual")
    position(app).select(1).run()
    assert not app.exception
    assert [error.value for error in app.error] == [
        "Something went wrong here. Start the page again: your text and model stay, all other settings go back to the "
        "usual ones."
    ]
    assert failed(app) == ["start-again-show_lens"]
    assert any("who wrote this logit" in heading.value for heading in app.header), "what comes after is there"
    assert FAULT in caplog.text
    assert "ZeroDivisionError" in caplog.text
    app.button(key="start-again-show_lens").click().run()
    check_page(app, "residual")
    assert settings_of(app) == {setting.name: setting.default for setting in SETTINGS} | {
        "text": "One two three",
        "bos": True,
    }
    assert app.text_area(key="text").value == "One two three"


@pytest.mark.fails
@pytest.mark.parametrize(
    ("module", "name"), [(pages.tokens, "token_table"), (look, "follow_browser"), (models, "title"), (models, "loaded")]
)
def test_a_page_or_the_controls_that_fail_are_a_sentence_and_what_is_typed_stays(monkeypatch, module, name):
    app = open_page("tokens", text="One two three")
    with monkeypatch.context() as patched:
        patched.setattr(module, name, fails)
        app.run()
        assert not app.exception
        assert failed(app) == ["start-again-page"]
        assert app.query_params in ({"text": "One two three"}, {"text": ["One two three"]})
    app.run()
    check_page(app, "tokens")
    assert app.text_area(key="text").value == "One two three"


@pytest.mark.fails
def test_a_page_that_fails_leaves_the_others_alone(monkeypatch):
    monkeypatch.setattr(gptviz.charts, "attention_map", fails)
    app = open_page("attention", text="One two three")
    assert failed(app) == ["start-again-show_attention"]
    check_page(go_to(app, "tokens"), "tokens")
    assert app.text_area(key="text").value == "One two three"
