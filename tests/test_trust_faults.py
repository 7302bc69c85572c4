"""Faults of the hub, the disk and the process: one sentence, a working app, and no partial file taken for a whole one.

A single refusal and a single cut are tested in test_hub.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import patience
import psutil
import pytest
from hub_server import etag_of
from huggingface_hub import constants
from patience import until
from test_app import charts, check_page, open_page, served_as_an_app  # noqa: F401 - a fixture
from test_hub import (  # noqa: F401 - fixtures
    LOAD,
    REPO,
    ROOT,
    assert_not_on_this_machine,
    content_under,
    expected_ids,
    files,
    first_ids,
    hub,
    model,
    result_of,
    sentence,
    serving,
    start,
)

import gptviz
from gptviz.ui import models

WEIGHTS = "model.safetensors"


@pytest.fixture
def hurried(monkeypatch):
    """Shorten the pauses of the hub's client to fractions of a second."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))


@pytest.fixture
def impatient(monkeypatch, hurried):
    """Shorten its timeouts too, for a hub that never answers."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "DEFAULT_ETAG_TIMEOUT", 0.3, raising=False)
    monkeypatch.setattr(constants, "DEFAULT_DOWNLOAD_TIMEOUT", 0.3, raising=False)


def assert_nothing_is_taken_for_whole(folder, files):
    """Assert that every file under a whole file's name is that file."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith((".incomplete", ".lock")) and "blobs" in path.parts:
            assert path.name == etag_of(path.read_bytes())
    assert_not_on_this_machine()


# --- the hub ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_not_waited_for_forever(hub, files, tmp_path, impatient):
    hub.silent.set()
    try:
        said = sentence()
    finally:
        hub.silent.clear()
    assert said.startswith(f"The hub could not be reached, so {REPO} was not downloaded: check the network")
    assert_nothing_is_taken_for_whole(tmp_path, files)


def test_a_connection_that_breaks_again_and_again_is_a_sentence_and_later_whole(hub, files, model, tmp_path, hurried):
    hub.cut_after, hub.cut_always = 1000, True
    said = sentence()
    assert said.startswith("The hub could not be reached") or "came damaged" in said
    assert_nothing_is_taken_for_whole(tmp_path, files)
    hub.cut_after = None
    assert first_ids() == expected_ids(model)


@pytest.mark.parametrize("kind", ["a page", "nothing", "too short", "too long", "another model"])
def test_a_wrong_file_is_thrown_away(hub, files, model, tmp_path, hurried, kind):
    whole = files[f"{REPO}/{WEIGHTS}"]
    hub.instead = {
        WEIGHTS: {
            "a page": b"<html>Log in to the network of this hotel</html>" * 1000,
            "nothing": b"",
            "too short": whole[:-1],
            "too long": whole + b"x",
            "another model": whole[:-100] + bytes(100),
        }[kind]
    }
    said = sentence()
    assert "\n" not in said
    assert "try again" in said
    assert_nothing_is_taken_for_whole(tmp_path, files)
    hub.instead = {}
    assert first_ids() == expected_ids(model)


def test_a_login_page_in_place_of_the_configuration_is_thrown_away(hub, files, model, tmp_path, hurried):
    hub.instead = {"config.json": b"<html>Log in</html>"}
    assert "try again" in sentence()
    assert_nothing_is_taken_for_whole(tmp_path, files)
    hub.instead = {}
    assert first_ids() == expected_ids(model)


def test_a_repository_whose_own_files_are_no_model_is_a_sentence(hub, files):
    hub.files = files | {f"{REPO}/{WEIGHTS}": b"not a model" * 2000}
    with pytest.raises(gptviz.WeightsError, match=r"model\.safetensors cannot be read as safetensors"):
        gptviz.load("gpt2", device="cpu")


# --- the disk ---------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder, n_bytes):
    """Yield a disk of `n_bytes`; skip the test if this machine does not allow one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.filterwarnings("ignore:Not enough free disk space")  # huggingface_hub's warning before it tries
def test_a_disk_that_becomes_full_on_the_way_is_a_sentence(hub, files, model, tmp_path, monkeypatch):
    with small_disk(tmp_path / "small", 2_000_000) as folder:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
        assert sentence() == f"The disk is full, so {REPO} could not be stored: free some space and try again."
        assert_nothing_is_taken_for_whole(folder, files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "large"))
    assert first_ids() == expected_ids(model)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_a_sentence(hub, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "locked"))
    assert "could not be written" in sentence()


# --- simultaneous downloads, and a process that ends ------------------------------------------------


def test_sessions_that_want_the_same_model_share_one_download(hub, files, model):
    hub.silent.set()  # No download may finish before all have asked.
    together = threading.Barrier(8)

    def ask(_):
        together.wait(patience.SECONDS)
        return models.download("gpt2")

    with ThreadPoolExecutor(8) as pool:
        downloads = list(pool.map(ask, range(8)))
    hub.silent.clear()
    assert len({id(download) for download in downloads}) == 1
    downloads[0].future.result(patience.SECONDS)
    assert hub.ranges_asked(WEIGHTS) == [None]
    assert first_ids(allow_download=False) == expected_ids(model)


IN_SMALL_PIECES = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 100_000"


@pytest.mark.slow
def test_a_process_that_is_killed_on_the_way_leaves_no_half_model_and_the_next_one_loads(files, model, tmp_path):
    with serving(files) as hub:
        hub.hold_after = 400_000
        process = start(hub.url, tmp_path, IN_SMALL_PIECES + LOAD)
        until(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.rglob("*.incomplete")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert list(tmp_path.rglob("*.incomplete"))
        assert not list(tmp_path.rglob(f"snapshots/*/{WEIGHTS}"))

        code = "import gptviz; gptviz.load('gpt2', allow_download=False)"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert "GPT-2 small is not on this machine yet" in found.stderr

        hub.hold_after = None
        assert result_of(start(hub.url, tmp_path))["ids"] == expected_ids(model)


# --- in the app -------------------------------------------------------------------------------------


@pytest.fixture
def app(hub):
    models._downloads.clear()
    models._models().clear()
    yield open_page("attention", text="Once upon a time", model="gpt2")
    models._models().clear()


def click(app, label):
    next(button for button in app.button if button.label == label).click().run()
    check_page(app, "attention")


FAULTS = {
    "404": lambda hub: setattr(hub, "status", 404),
    "429": lambda hub: setattr(hub, "status", 429),
    "500": lambda hub: setattr(hub, "status", 500),
    "damaged": lambda hub: setattr(hub, "damaged", frozenset({WEIGHTS})),
    "wrong file": lambda hub: hub.instead.update({WEIGHTS: b"<html>" * 5000}),
    "cut": lambda hub: (setattr(hub, "cut_after", 1000), setattr(hub, "cut_always", True)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_one_sentence_the_app_works_on_and_a_second_try_succeeds(app, hub, hurried, fault):
    shown = charts(app)
    fault(hub)
    click(app, "Download GPT-2 small")
    (error,) = app.error
    assert "\n" not in error.value
    assert charts(app) == shown, "the model in use stays"
    hub.status, hub.damaged, hub.cut_after = 200, frozenset(), None
    hub.instead.clear()
    click(app, "Download GPT-2 small")
    assert not app.error
    assert app.session_state["_model_in_use"] == "gpt2"
    assert charts(app) != shown


def test_a_model_in_the_cache_that_was_damaged_there_can_be_fetched_again(app, hub, tmp_path):
    click(app, "Download GPT-2 small")
    assert app.session_state["_model_in_use"] == "gpt2"
    (blob,) = {path.resolve() for path in tmp_path.rglob(WEIGHTS)}
    os.truncate(blob, 1000)
    models._models().clear()
    app = open_page("attention", text="Once upon a time", model="gpt2")
    check_page(app, "attention")
    assert "model.safetensors cannot be read" in app.error[0].value
    assert [warning.value for warning in app.warning] == ["The file was damaged on this machine, and was removed."]
    assert charts(app), "the bundled model is shown"
    app = open_page("attention", text="Once upon a time", model="gpt2")
    assert not app.error
    click(app, "Download GPT-2 small")
    assert not app.error
    assert app.session_state["_model_in_use"] == "gpt2"


def test_a_whole_file_that_cannot_be_used_stays(hub, files, tmp_path):
    hub.files = files | {f"{REPO}/{WEIGHTS}": b"not a model" * 2000}
    gptviz.hub.download(REPO)
    assert not models.remove_damaged("gpt2")
    assert list(tmp_path.rglob(WEIGHTS))
    assert not models.remove_damaged("story-gpt")
    assert not models.remove_damaged("/etc/passwd")


@pytest.mark.parametrize("free", [1_000_000_000, 6_000_000_000])
def test_a_model_that_does_not_fit_into_memory_says_so_before_it_is_downloaded(hub, monkeypatch, free):
    memory = psutil.virtual_memory()._replace(available=free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    app = open_page("attention", text="Once upon a time", model="gpt2-xl")
    check_page(app, "attention")
    assert [warning.value for warning in app.warning] == [
        f"This model needs 6.2 GB of memory, and {free / 1e9:.1f} GB are free: choose a smaller one, or close other "
        "programs."
    ]
    assert charts(app)
