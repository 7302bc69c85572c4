import numpy as np
import pytest

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
