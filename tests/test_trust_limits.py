"""Limits for public demos: the server enforces each one, even against clients that bypass the widgets."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import patience
import pytest
from patience import until
from test_app import charts, check_page, notices, open_page, served_as_an_app, this_machine  # noqa: F401 - fixtures

import gptviz
from gptviz.engine import Engine
from gptviz.tokens import gpt2_tokenizer
from gptviz.ui import limits, models, settings
from gptviz.ui.gate import BusyError, Gate

LIMITS = {
    "GPTVIZ_MAX_TEXT": "text",
    "GPTVIZ_MAX_NEW_TOKENS": "new_tokens",
    "GPTVIZ_MAX_COMPUTATIONS": "computations",
    "GPTVIZ_MAX_WAITING": "waiting",
    "GPTVIZ_MAX_MODEL_MB": "model_megabytes",
}


@pytest.fixture(autouse=True)
def usual_limits(monkeypatch):
    for variable in (*LIMITS, "GPTVIZ_ALLOWED_MODELS"):
        monkeypatch.delenv(variable, raising=False)


# --- the settings -----------------------------------------------------------------------------------


def test_the_usual_limits_let_a_lecture_be_and_stop_the_absurd():
    usual = limits.read()
    assert (usual.text, usual.new_tokens, usual.computations, usual.waiting) == (100_000, 1024, 2, 100)
    assert usual.models == set(gptviz.MODELS)


@pytest.mark.parametrize(("variable", "name"), LIMITS.items())
def test_a_limit_is_read_from_the_environment(monkeypatch, variable, name):
    monkeypatch.setenv(variable, "7")
    assert getattr(limits.read(), name) == 7


@pytest.mark.parametrize("word", ["0", "-1", "1e3", "many", "1.5", "9" * 10, "9" * 5000, " 5", "٣", "²"])
@pytest.mark.parametrize("variable", LIMITS)
def test_a_limit_that_cannot_be_read_is_a_sentence_and_no_limit_is_taken_for_it(monkeypatch, variable, word):
    monkeypatch.setenv(variable, word)
    with pytest.raises(limits.LimitsError, match=f"{variable} is .*: make it a whole number from 1 to 999,999,999"):
        limits.read()


def test_the_app_says_so_and_shows_nothing_else(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_TEXT", "<b>lots")
    app = open_page("attention")
    assert not app.exception
    (error,) = app.error
    assert "lots" in error.value
    assert not charts(app)


# --- the longest text -------------------------------------------------------------------------------


def test_only_as_much_of_the_text_is_looked_at(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_TEXT", "20")
    text = "The cat sat on the mat. " * 3
    app = open_page("tokens", text=text)
    check_page(app, "tokens")
    assert app.dataframe[0].value["id"].tolist() == list(gpt2_tokenizer().encode(text[:20]).ids)
    assert any("52 characters more than this app takes" in warning.value for warning in app.warning)
    app.text_area(key="text").set_value("x" * 1_000_000).run()
    check_page(app, "tokens")
    assert len(app.dataframe[0].value) <= 20
    assert any("999,980 characters more than this app takes" in warning.value for warning in app.warning)
    assert app.text_area(key="text").value == "x" * 20, "no more is kept, nor sent back at every run"


@pytest.mark.parametrize(("page", "setting"), [("embeddings", settings.PROBE), ("residual", settings.TARGET)])
def test_words_typed_elsewhere_are_no_longer_either(monkeypatch, page, setting):
    monkeypatch.setenv("GPTVIZ_MAX_TEXT", "20")
    tokenized = []
    encode = gptviz.tokens.Tokenizer.encode
    monkeypatch.setattr(
        gptviz.tokens.Tokenizer,
        "encode",
        lambda self, text, **how: (tokenized.append(len(text)), encode(self, text, **how))[1],
    )
    app = open_page(page, **{setting.name: "x" * 100_000})
    check_page(app, page)
    assert max(tokenized) == 20


# --- the models -------------------------------------------------------------------------------------


@pytest.fixture
def only_small(monkeypatch):
    monkeypatch.setenv("GPTVIZ_ALLOWED_MODELS", " gpt2 ,distilgpt2")


@pytest.mark.parametrize("name", ["untrained", "gpt2-xl", "/etc/passwd", "openai-community/gpt2", "../story-gpt", ""])
def test_a_model_that_is_not_allowed_is_neither_shown_nor_loaded_nor_downloaded(only_small, monkeypatch, name):
    loaded = []
    models._models().clear()  # Drop any model that was loaded while it was allowed.
    monkeypatch.setattr(gptviz, "load", lambda name, **_: loaded.append(name))
    assert models.names() == ["story-gpt", "gpt2", "distilgpt2"]
    with pytest.raises(gptviz.WeightsError, match="no model of that name here"):
        models.loaded(name)
    with pytest.raises(gptviz.DownloadError, match="not offered here"):
        models.download(name)
    assert loaded == []


def test_a_link_or_a_session_that_asks_for_one_gets_the_bundled_one(only_small):
    app = open_page("attention", model="untrained")
    check_page(app, "attention")
    assert notices(app) == ["There is no model of that name here, so the usual one is shown."]
    assert app.selectbox(key="model").value == "story-gpt"
    assert app.session_state["_model_in_use"] == "story-gpt"


def test_the_bundled_model_is_always_allowed_and_unknown_names_are_a_sentence(monkeypatch):
    monkeypatch.setenv("GPTVIZ_ALLOWED_MODELS", "gpt2")
    assert models.names() == ["story-gpt", "gpt2"]
    monkeypatch.setenv("GPTVIZ_ALLOWED_MODELS", "gpt2,gpt5")
    with pytest.raises(limits.LimitsError, match="GPTVIZ_ALLOWED_MODELS names 'gpt5': known are story-gpt, gpt2,"):
        models.names()


# --- writing ----------------------------------------------------------------------------------------


def test_no_more_is_written_than_allowed(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_NEW_TOKENS", "3")
    app = open_page("next_token", text="Once upon a time", temperature="0.8")
    app.button(key="add-several").click().run()
    check_page(app, "next_token")
    assert len(app.session_state["_settings"]["continuation"]) == 3
    assert app.button(key="add-one").disabled
    assert app.button(key="add-several").disabled
    assert any("3 tokens are the most" in caption.value for caption in app.caption)

    app.session_state["_to_write"] = (
        app.session_state["_to_write"][0] or gpt2_tokenizer().encode("Once upon a time").ids,
        99,
    )
    app.run()
    check_page(app, "next_token")
    assert len(app.session_state["_settings"]["continuation"]) == 3


def test_a_link_that_brings_more_is_cut_and_says_so(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_NEW_TOKENS", "3")
    app = open_page("next_token", text="Once", continuation="11-12-13-14-15")
    check_page(app, "next_token")
    assert app.query_params == {"text": "Once", "continuation": "11-12-13"}
    assert notices(app) == ["The link's continuation has 5 tokens; the first 3 are shown."]


# --- simultaneous computations ----------------------------------------------------------------------


def hold(gate, entered, release):
    with gate.turn(threading.get_ident(), lambda _: None):
        entered.release()
        assert release.wait(patience.SECONDS)


def test_so_many_compute_at_once_the_others_as_they_came_and_too_many_are_refused():
    gate, entered, release = Gate(2, 3), threading.Semaphore(0), threading.Event()
    told, order = [], []

    def wait(number):
        with gate.turn(number, lambda n_ahead: told.append((number, n_ahead))):
            order.append(number)

    with ThreadPoolExecutor(5) as pool:
        for _ in range(2):
            pool.submit(hold, gate, entered, release)
            assert entered.acquire(timeout=patience.SECONDS)
        waiting = []
        for number in range(3):
            waiting.append(pool.submit(wait, number))
            until(lambda number=number: (number, number + 2) in told)
        with pytest.raises(BusyError), gate.turn(threading.get_ident(), lambda _: None):
            pass
        assert order == []
        release.set()
        for future in waiting:
            future.result(patience.SECONDS)
    assert sorted(order) == [0, 1, 2]
    with gate.turn("session", lambda _: pytest.fail("nobody is before it")):
        pass


def test_one_at_a_time_goes_by_the_order_of_coming():
    gate, entered, release = Gate(1, 10), threading.Semaphore(0), threading.Event()
    told, order = set(), []

    def wait(number):
        with gate.turn(number, lambda _: told.add(number)):
            order.append(number)

    with ThreadPoolExecutor(6) as pool:
        pool.submit(hold, gate, entered, release)
        assert entered.acquire(timeout=patience.SECONDS)
        for number in range(5):
            pool.submit(wait, number)
            until(lambda number=number: number in told)
        release.set()
    assert order == list(range(5))


def test_a_thread_that_is_inside_may_enter_again():
    gate = Gate(1, 1)
    with (
        gate.turn("session", lambda _: pytest.fail("it waits for itself")),
        gate.turn("session", lambda _: pytest.fail("it waits for itself")),
    ):
        pass
    assert gate._line == []


def test_a_failure_inside_and_a_wait_that_is_given_up_leave_no_place_taken():
    gate, entered, release = Gate(1, 5), threading.Semaphore(0), threading.Event()
    with pytest.raises(ZeroDivisionError), gate.turn(threading.get_ident(), lambda _: None):
        1 / 0  # noqa: B018
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold, gate, entered, release)
        assert entered.acquire(timeout=patience.SECONDS)

        def give_up(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), gate.turn("session", give_up):
            pytest.fail("it was not its turn")
        assert len(gate._line) == 1
        release.set()
    assert gate._line == []


@pytest.fixture
def busy(monkeypatch):
    """All turns are taken until `release` is set."""
    monkeypatch.setenv("GPTVIZ_MAX_COMPUTATIONS", "1")
    monkeypatch.setenv("GPTVIZ_MAX_WAITING", "1")
    entered, release = threading.Semaphore(0), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        gate = models._gate()
        pool.submit(hold, gate, entered, release)
        assert entered.acquire(timeout=patience.SECONDS)
        yield pool, gate, release
        release.set()


def test_a_page_waits_for_its_turn_and_is_then_whole(busy):
    pool, gate, release = busy
    pool.submit(lambda: (until(lambda: len(gate._line) == 2), time.sleep(0.5), release.set()))
    app = open_page("attention", text="A text that waits for its turn.")
    check_page(app, "attention")
    assert charts(app)
    assert not app.error
    assert release.is_set()


def test_who_waits_sees_for_how_many(busy, monkeypatch):
    pool, _, release = busy
    said = []

    class Place:
        caption = said.append
        empty = staticmethod(lambda: said.append(None))

    monkeypatch.setattr(models.st, "empty", Place)

    def ask():
        with models.turn():
            said.append("its turn")

    asked = pool.submit(ask)
    until(lambda: said)
    release.set()
    asked.result(patience.SECONDS)
    assert said[0] == ":material/hourglass_top: Waiting for 1 other…"
    assert said[-2:] == [None, "its turn"], "the sign is taken away"


def test_where_too_many_wait_one_sentence_says_so(busy):
    pool, gate, release = busy
    pool.submit(hold, gate, threading.Semaphore(0), release)
    until(lambda: len(gate._line) == 2)
    app = open_page("attention", text="A text for which there is no room.")
    check_page(app, "attention")
    assert [error.value for error in app.error] == [
        "Too many people compute at this moment (1 wait already): reload the page in a minute."
    ]
    assert not charts(app)
    release.set()
    until(lambda: not gate._line)
    app.run()
    check_page(app, "attention")
    assert not app.error
    assert charts(app)


def test_what_was_computed_already_needs_no_turn(monkeypatch):
    link = {"text": "A text that was there before."}
    check_page(open_page("attention", **link), "attention")
    monkeypatch.setattr(models, "_gate", lambda *_: pytest.fail("it asks for a turn"))
    app = open_page("attention", **link)
    check_page(app, "attention")
    assert charts(app)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_a_run_that_takes_all_memory_is_a_sentence(monkeypatch, error):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(Engine, "run", run)
    app = open_page("attention", text="A text that is too much.")
    check_page(app, "attention")
    assert [error.value for error in app.error] == [
        "There is not enough memory for this text and model: take a shorter text, or a smaller model."
    ]
