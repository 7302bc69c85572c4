import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import patience
import pytest
import torch
from tiny import TINY, tiny_engine, tiny_model

import gptviz
from gptviz.__main__ import main
from gptviz.engine import Engine
from gptviz.weights import untrained_model


def test_next_prints_the_cards_tokens(capsys):
    assert main(["next", "Once upon a time there was a", "-k", "3", "--bos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["token", "id", "logit", "probability"]
    assert [line.split()[0] for line in lines[1:]] == ["␣little", "␣big", "␣small"]
    assert float(lines[1].split()[3]) == pytest.approx(0.235, abs=1e-3)


def test_models_lists_every_name(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in gptviz.MODELS)
    assert "124,439,808" in out


def test_trace_holds_every_activation(tmp_path, capsys):
    path = tmp_path / "trace.npz"
    assert main(["trace", "Every effort moves you", "--out", str(path)]) == 0
    engine = gptviz.load("story-gpt")
    trace = engine.run("Every effort moves you")
    with np.load(path) as saved:
        assert set(saved.files) == {"ids", "strings"} | {
            f"{name}.{layer}" if "{layer}" in site.module else name
            for name, site in gptviz.ACTIVATIONS.items()
            for layer in range(engine.config["n_layers"])
        }
        np.testing.assert_array_equal(saved["ids"], trace.tokens.ids)
        np.testing.assert_allclose(saved["pattern.3"], trace["pattern", 3], atol=1e-6)
    assert "94 activations of 4 tokens" in capsys.readouterr().out


def test_verify_passes_for_the_bundled_model(capsys):
    assert main(["verify", "story-gpt"]) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert "the card's five next tokens" in out


def test_verify_tells_other_weights_under_a_known_name(monkeypatch, capsys):
    config = gptviz.MODELS["story-gpt"].config
    impostor = Engine(untrained_model(config, seed=0), config, name="story-gpt")
    monkeypatch.setattr(gptviz, "load", lambda *_arguments, **_options: impostor)
    assert main(["verify", "story-gpt"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert "the card's five next tokens" in failed[0]


@pytest.fixture
def headless(tmp_path):
    """One of the course's state dicts, which does not say that its model has 4 heads."""
    model = tiny_model(emb_dim=128, n_heads=4, n_layers=1)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    return str(tmp_path / "model.pth"), Engine(model, {**TINY, "emb_dim": 128, "n_heads": 4, "n_layers": 1})


@pytest.mark.parametrize("command", ["next", "trace", "verify"])
def test_a_number_of_heads_that_is_a_guess_is_said_on_stderr(headless, command, tmp_path, capsys):
    path, _ = headless
    arguments = {
        "next": ["next", "Hi there", "--model"],
        "trace": ["trace", "Hi there", "--out", str(tmp_path / "trace.npz"), "--model"],
        "verify": ["verify"],
    }[command]
    assert main([*arguments, path]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(
        "gptviz: The number of heads is a guess: the checkpoint does not say it, so 2 were taken"
    )
    assert len(said.err.splitlines()) == 1
    assert "guess" not in said.out
    for told in ([path, "--n-heads", "4"], [f"{path}?n_heads=4"]):
        assert main([*arguments, *told]) == 0
        assert capsys.readouterr().err == ""


def test_the_number_of_heads_that_is_told_is_computed_with(headless, tmp_path, capsys):
    path, right = headless
    pattern = right.run("Hi there, little dog")["pattern", 0]
    for told in (["--model", path, "--n-heads", "4"], ["--model", f"{path}?n_heads=4"]):
        assert main(["trace", "Hi there, little dog", "--out", str(tmp_path / "trace.npz"), *told]) == 0
        with np.load(tmp_path / "trace.npz") as saved:
            np.testing.assert_allclose(saved["pattern.0"], pattern, atol=1e-5)
    assert main(["next", "Hi", "--model", path, "--n-heads", "3"]) == 2
    assert "not divisible by n_heads (3)" in capsys.readouterr().err
    for word in ("0", "-1", "four", "2.0", "9" * 5000):
        with pytest.raises(SystemExit, match="2"):
            main(["verify", path, "--n-heads", word])
        assert "is no number of heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["next", ""], "The text is empty"),
        (["next", "Hi", "--model", "nope"], "'nope' is no known model"),
        (["next", "word " * 300], "at most 256"),
        (["trace", "Hi", "--out", "/no/such/folder/x.npz"], "No such folder: /no/such/folder. Name a file"),
    ],
)
def test_errors_are_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *((["next", "Hi", "-k", word], f"'{word}' is no count") for word in ("-5", "0", "x", "1.5", "9" * 30)),
        *((["next", "Hi", "--temperature", word], f"'{word}' is no temperature") for word in ("-1", "nan", "inf", "x")),
        (["trace", "Hi", "--out", "{tmp_path}"], "is a folder: name a file in it"),
        (["trace", "Hi"], "the following arguments are required: --out"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_usage_errors_are_told_before_a_model_is_loaded(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gptviz, "load", lambda *_, **__: pytest.fail("loads a model"))
    with pytest.raises(SystemExit) as caught:
        main([word.format(tmp_path=tmp_path) for word in arguments])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["next", ""], ["trace", "", "--out", "x"], ["trace", "a", "--out", "/no/such/x"]]
)
def test_so_are_an_empty_text_and_a_folder_that_is_not_there(arguments, monkeypatch):
    monkeypatch.setattr(gptviz, "load", lambda *_, **__: pytest.fail("loads a model"))
    assert main(arguments) == 2


@pytest.mark.parametrize("name", ["trace", "trace.npy", "trace.npz", ".hidden", "no dot.at all "])
def test_the_file_that_was_named_is_written(name, tmp_path, capsys):
    assert main(["trace", "Hello", "--out", str(tmp_path / name)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert capsys.readouterr().out == f"94 activations of 1 tokens in {tmp_path / name}\n"
    with np.load(tmp_path / name) as saved:
        assert saved["ids"].tolist() == [15496]


def test_no_part_of_a_file_is_left(tmp_path, monkeypatch, capsys):
    def full(file, **_arrays):
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert main(["trace", "Hello", "--out", str(tmp_path / "x")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_numbers_are_none_is_a_sentence(monkeypatch, capsys):
    model = tiny_model()
    model.out_head.weight.fill_(np.nan)
    engine = gptviz.Engine(model, tiny_engine().config, device="cpu")
    monkeypatch.setattr(gptviz, "load", lambda *_, **__: engine)
    assert main(["next", "Hello"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gptviz: The model's numbers are broken")
    assert captured.out == ""


# --- as a program ------------------------------------------------------------------------------


def start(*arguments, **how):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **how.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, *how.pop("python", ["-m", "gptviz"]), *arguments],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_output_encoding_will_do(encoding):
    process = start(
        "next", "Once upon a time there was a", "-k", "2", "--bos", environment={"PYTHONIOENCODING": encoding}
    )
    output, errors = process.communicate(timeout=patience.SECONDS)
    assert (process.returncode, errors) == (0, b"")
    shown = "␣little".encode(encoding, errors="backslashreplace")
    assert shown in output


def test_whoever_reads_no_more_ends_it_without_a_word():
    process = start("models")
    process.stdout.close()  # Like `head`, but before the first line.
    assert process.stderr.read() == b""
    assert process.wait(timeout=patience.SECONDS) == 0
    process.stderr.close()


def test_a_failed_check_is_told_also_to_whoever_reads_no_more():
    code = (
        "import gptviz\n"
        "from types import SimpleNamespace\n"
        "from gptviz import verify, __main__\n"
        "verify.checks = lambda engine: [verify.Check('one', 'wrong', False)] * 5\n"
        "gptviz.load = lambda *_, **__: SimpleNamespace(notes=())\n"
        "raise SystemExit(__main__.main(['verify', 'story-gpt']))\n"
    )
    process = start(python=["-c", code])
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=patience.SECONDS) == 1
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_an_interruption_ends_it_with_130_and_no_traceback():
    code = (
        "import signal, sys, time, gptviz\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # A shell's background jobs ignore SIGINT.
        "from gptviz import __main__\n"
        "def load(*_, **__):\n"
        "    print('loading', flush=True)\n"
        "    time.sleep(200)\n"
        "gptviz.load = load\n"
        "sys.exit(__main__.main(['next', 'Hello']))\n"
    )
    process = start(python=["-c", code])
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=patience.SECONDS)
    assert (process.returncode, output, errors) == (130, b"", b"")
