import numpy as np
import pytest
import torch
from tiny import TINY, tiny_model

import gptviz
from gptviz.__main__ import main
from gptviz.engine import Engine
from gptviz.weights import untrained_model


def test_next_prints_the_cards_tokens(capsys):
    assert main(["next", "Once upon a time there was a", "-k", "3", "--bos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["token", "id", "logit", "probability"]
    assert [line.split()[0] for line in lines[1:]] == ["␣little", "␣boy", "␣great"]
    assert float(lines[1].split()[3]) == pytest.approx(0.246, abs=1e-3)


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
    """A state dict of the course that does not say that its model has 4 heads."""
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
        (["trace", "Hi", "--out", "/no/such/folder/x.npz"], "No such file"),
    ],
)
def test_errors_are_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
