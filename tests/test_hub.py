"""Real downloads, from a server on the loopback address."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import patience
import pytest
import torch
from hub_server import etag_of, serving
from huggingface_hub import constants
from tiny import gpt2_config, gpt2_tensors, tiny_model, write_folder

import gptviz
from gptviz import DownloadError, NotDownloadedError, loading
from gptviz.weights import check_finite

ROOT = Path(__file__).parents[1]
REPO = "openai-community/gpt2"


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=9, tied_head=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory, model):
    folder = write_folder(tmp_path_factory.mktemp("repository"), gpt2_tensors(model), gpt2_config(tied_head=True))
    return {f"{REPO}/{name}": (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A running server that huggingface_hub takes for the hub, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    for bound in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(constants, bound, patience.SECONDS)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(files) as hub:
        use(hub.url, monkeypatch)
        yield hub
    huggingface_hub.close_session()


def use(url, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    huggingface_hub.close_session()


def first_ids(**switches):
    """Return the three most probable ids after a text, by the model that `load` finds."""
    return gptviz.load("gpt2", device="cpu", **switches).run("Once upon a time").top_k(k=3)["id"].tolist()


def sentence(**switches):
    with pytest.raises(DownloadError) as caught:
        gptviz.load("gpt2", device="cpu", **switches)
    return str(caught.value)


def assert_not_on_this_machine():
    with pytest.raises(NotDownloadedError, match=r"^GPT-2 small is not on this machine yet: download it first\.$"):
        gptviz.load("gpt2", device="cpu", allow_download=False)


def expected_ids(model):
    return model(torch.tensor([[7454, 2402, 257, 640]]))[0, -1].argsort(descending=True)[:3].tolist()


def content_under(folder):
    """Return the names of the files that hold content: locks and references may stay."""
    return [path.name for path in folder.rglob("*") if "blobs" in path.parts or "snapshots" in path.parts[:-2]]


def assert_grows_to_the_size_of(heard, content):
    so_far = [bytes for bytes, _ in heard]
    assert len(so_far) > 5
    assert so_far == sorted(so_far)
    assert so_far[-1] == len(content)
    assert {in_all for _, in_all in heard} == {len(content)}


def test_a_download_reports_its_progress_and_the_next_start_needs_no_server(hub, files, model, monkeypatch):
    heard = []
    assert first_ids(progress=lambda *bytes: heard.append(bytes)) == expected_ids(model)
    assert_grows_to_the_size_of(heard, files[f"{REPO}/model.safetensors"])

    hub.requests.clear()
    assert first_ids(progress=lambda *_: pytest.fail("downloads again")) == expected_ids(model)
    assert first_ids(allow_download=False) == expected_ids(model)
    assert hub.requests == []


def test_without_leave_nothing_is_downloaded(hub):
    assert_not_on_this_machine()
    assert hub.requests == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub, files, model):
    hub.cut_after = 1_050_000
    heard = []
    assert first_ids(progress=lambda *bytes: heard.append(bytes)) == expected_ids(model)
    assert hub.ranges_asked("model.safetensors") == [None, "bytes=1000000-"]
    assert_grows_to_the_size_of(heard, files[f"{REPO}/model.safetensors"])


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_damaged_content_is_an_error_and_leaves_nothing_behind(hub, model, tmp_path, file):
    hub.damaged = frozenset({file})
    assert sentence() == (
        f"The download of {file} from {REPO} came damaged (its checksum is wrong) and was removed: try again."
    )
    assert file not in content_under(tmp_path)
    assert etag_of(hub.files[f"{REPO}/{file}"]) not in content_under(tmp_path)
    assert_not_on_this_machine()

    hub.damaged = frozenset()
    assert first_ids() == expected_ids(model)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, f"The hub has no {REPO}, or not in a form that gptviz reads (config.json and model.safetensors)."),
        (429, f"The hub asks for a pause (too many requests) and did not send {REPO}: try again in some minutes."),
        (500, f"The hub answered with error 500 and did not send {REPO}: try again later."),
        (503, f"The hub answered with error 503 and did not send {REPO}: try again later."),
    ],
)
def test_a_refusal_is_one_sentence_without_insisting(hub, tmp_path, status, expected):
    hub.status = status
    assert sentence() == expected
    assert len(hub.requests) == 1
    assert content_under(tmp_path) == []


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_a_repository_that_lacks_a_file_is_a_sentence(hub, files, lacking):
    hub.files = {name: content for name, content in files.items() if lacking not in name}
    assert sentence().startswith(f"The hub has no {REPO}, or not in a form that gptviz reads")
    assert_not_on_this_machine()


@pytest.mark.parametrize("n_before", [1, 2, 3])
def test_a_repository_that_changes_during_the_download_is_a_sentence(hub, model, monkeypatch, n_before):
    calls = []

    def changing(method, get):
        def changed(*arguments, **switches):
            calls.append(method)
            if len(calls) == n_before + 1:
                hub.commit = hub.commit[::-1]
            return get(*arguments, **switches)

        return changed

    with monkeypatch.context() as patched:
        for method in ("get_hf_file_metadata", "hf_hub_download"):
            patched.setattr(huggingface_hub, method, changing(method, getattr(huggingface_hub, method)))
        assert sentence() == f"{REPO} was changed on the hub while it was downloaded: try again."
    assert calls[:2] == ["get_hf_file_metadata", "hf_hub_download"]
    assert first_ids() == expected_ids(model)


def test_no_server_at_all_is_one_sentence_that_says_what_works(hub, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        assert sentence() == (
            f"The hub could not be reached, so {REPO} was not downloaded: check the network and try again. "
            "story-gpt, untrained models and checkpoints on this machine work without it."
        )


def test_a_cache_that_cannot_be_written_is_no_matter_of_the_network_nor_of_space(hub, tmp_path, monkeypatch):
    occupied = tmp_path / "workspace"
    occupied.write_text("a file where the cache's folder should be")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(occupied))
    assert re.fullmatch(
        rf".*workspace.* could not be written \(.*\), so {REPO} was not stored: check the folder\.", sentence()
    )


def test_a_full_disk_is_said_to_be_full(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    assert sentence() == f"The disk is full, so {REPO} could not be stored: free some space and try again."


def test_the_hub_is_not_told_who_asks(hub, monkeypatch):
    """The repositories are public, and the token in the environment belongs to another program."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    gptviz.load("gpt2", device="cpu")
    assert len(hub.requests) > 2
    assert hub.tokens == []


# --- NaN and infinity -----------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch):
    """One entry for each time the weights were checked for NaN and infinity."""
    calls = []

    def counted(tensors):
        calls.append(len(tensors))
        check_finite(tensors)

    monkeypatch.setattr(loading, "check_finite", counted)
    return calls


def test_weights_of_the_hub_are_looked_through_once(hub, model, looks, tmp_path):
    for _ in range(3):
        assert first_ids() == expected_ids(model)
    assert len(looks) == 1
    (marker,) = tmp_path.rglob(".looked-through/*")
    assert marker.name == etag_of(hub.files[f"{REPO}/model.safetensors"])
    assert [repo.repo_id for repo in huggingface_hub.scan_cache_dir(tmp_path).repos] == [REPO]
    assert not huggingface_hub.scan_cache_dir(tmp_path).warnings


def test_other_weights_are_looked_through_anew(hub, looks, tmp_path):
    first_ids()
    hub.commit = hub.commit[::-1]
    folder = write_folder(
        tmp_path / "other", gpt2_tensors(tiny_model(seed=4, tied_head=True)), gpt2_config(tied_head=True)
    )
    hub.files = {f"{REPO}/{name}": (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    gptviz.hub.download(REPO)
    first_ids()
    first_ids()
    assert len(looks) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_the_hub_that_are_no_numbers_are_a_sentence_each_time(hub, looks, tmp_path, value):
    broken = tiny_model(seed=9, tied_head=True)
    broken.trf_blocks[1].att.W_value.weight[3, 5] = value
    folder = write_folder(tmp_path / "broken", gpt2_tensors(broken), gpt2_config(tied_head=True))
    hub.files = {f"{REPO}/{name}": (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    for _ in range(2):
        with pytest.raises(gptviz.WeightsError, match=r"^The weights are broken: 1 of the 256 values of trf_blocks\.1"):
            first_ids()
    assert len(looks) == 2
    assert not list(tmp_path.rglob(".looked-through/*"))


def test_where_the_cache_cannot_be_written_it_looks_each_time(hub, model, looks, tmp_path):
    gptviz.hub.download(REPO)
    (tmp_path / f"models--{REPO.replace('/', '--')}" / ".looked-through").write_text("a file in the folder's place")
    for _ in range(2):
        assert first_ids() == expected_ids(model)
    assert len(looks) == 2


# --- separate processes, with an environment as a user would set it --------------------------------

LOAD = """
import json, gptviz
heard = []
engine = gptviz.load("gpt2", device="cpu", progress=lambda *bytes: heard.append(bytes))
print(json.dumps({"ids": engine.run("Once upon a time").top_k(k=3)["id"].tolist(), "heard": heard}))
"""


def start(url, home, code=LOAD):
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result_of(process):
    output, errors = process.communicate(timeout=patience.SECONDS)
    assert process.returncode == 0, errors
    return json.loads(output)


@pytest.mark.slow
def test_a_fresh_process_downloads_and_the_next_one_starts_with_the_server_gone(files, model, tmp_path):
    with serving(files) as hub:
        first = result_of(start(hub.url, tmp_path))
    second = result_of(start(hub.url, tmp_path))
    assert first["ids"] == second["ids"] == expected_ids(model)
    assert first["heard"][-1] == [len(files[f"{REPO}/model.safetensors"])] * 2
    assert second["heard"] == []


@pytest.mark.slow
def test_two_processes_that_download_at_once_both_succeed(files, model, tmp_path):
    with serving(files) as hub:
        hub.seconds_a_chunk = 0.05
        processes = [start(hub.url, tmp_path) for _ in range(2)]
        assert [result_of(process)["ids"] for process in processes] == [expected_ids(model)] * 2
    assert not any("incomplete" in name for name in content_under(tmp_path))
