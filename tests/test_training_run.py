"""A run as a folder: what is in it, and that nothing is lost."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from training import some_text, tiny_data, tiny_recipe

import gptviz
from gptviz.__main__ import main
from gptviz.numerics.head_kinds import head_scores
from gptviz.training import PRESETS, RecipeError, Run, RunError, read_recipe, text_data
from gptviz.training import run as runs
from gptviz.training.command import STOPPED
from gptviz.training.loop import start
from gptviz.training.measure import KINDS, in_context_score, repeated_sequences, repetitions, token_losses
from gptviz.training.run import checkpoint_steps, first_model, stops
from gptviz.weights import load_model, untrained_model

ROOT = Path(__file__).parents[1]
NOT_REPEATED = ["tokens_per_second"]  # a clock's


def trained(folder, recipe, n_rows=None):
    data = tiny_data(recipe)
    run = Run.create(folder, recipe, data)
    rows = run.train(data)
    for _ in range(n_rows or 10_000):
        if next(rows, None) is None:
            break
    rows.close()
    return run


def same_files(one, other):
    """Checkpoints and state bit by bit, and every column but the clock's."""
    assert one.checkpoints().keys() == other.checkpoints().keys()
    for step, path in one.checkpoints().items():
        assert flat(load_file(path)) == flat(load_file(other.checkpoints()[step]))
    a, b = (torch.load(run.folder / "state.pt", weights_only=True) for run in (one, other))
    assert flat(a) == flat(b)
    a, b = (pq.read_table(run.folder / "steps.parquet").drop_columns(NOT_REPEATED) for run in (one, other))
    assert a.equals(b)


def follow(rows, seen):
    for row in rows:
        seen.append(row)


def flat(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flat(one) for key, one in value.items()}
    return [flat(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"drop_rate": 0.2}, "random_share": 0.3, "passage_share": 0.2},
        {"optimizer": "muon", "accumulated_batches": 2, "decay": "cosine", "warmup_steps": 3},
        {"shared_row": False, "most_frequent_ids": None, "tied_head": False},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, changes):
    recipe = tiny_recipe(n_steps=12, measure_every=4, n_checkpoints=3, **changes)
    whole = trained(tmp_path / "whole", recipe)
    for n_rows in (1, 3):  # before the first step, and in the middle
        trained(tmp_path / f"part-{n_rows}", recipe, n_rows)
        run = Run(tmp_path / f"part-{n_rows}")
        torch.manual_seed(123)
        assert [row["step"] for row in run.train(tiny_data(recipe))] == stops(recipe)[n_rows - 1 :]
        same_files(run, whole)


def test_the_folder_says_what_was_trained(tmp_path):
    recipe = tiny_recipe()
    run = trained(tmp_path / "run", recipe)
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert about["format"] == 1
    assert about["recipe"] == dataclasses.asdict(recipe)
    assert about["data"] == json.loads(json.dumps(tiny_data(recipe).facts._asdict()))
    assert about["versions"]["torch"] == torch.__version__
    assert Run(tmp_path / "run").recipe == recipe
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    steps = {f"checkpoints/step-{step:07d}.safetensors" for step in checkpoint_steps(recipe)}
    assert names - {"lock"} == {"run.json", "steps.parquet", "state.pt"} | steps
    assert set(run.checkpoints()) == checkpoint_steps(recipe)


def test_a_row_has_what_was_measured(tmp_path):
    recipe = tiny_recipe(random_share=0.2)
    run = trained(tmp_path / "run", recipe)
    table = run.steps()
    assert table["step"].tolist() == [0, *stops(recipe)]
    assert (table["tokens_seen"] == table["step"] * 4 * 16).all()
    assert pd.isna(table["training_loss"][0])
    assert table.drop(columns="sample").iloc[1:].notna().all().all()
    groups = {"tok_emb", "pos_emb", "norms", *(f"trf_blocks.{i}.{part}" for i in range(2) for part in ("att", "ff"))}
    for length in ("gradient_norm", "update_ratio"):
        assert {name.split(".", 1)[1] for name in table.columns if name.startswith(f"{length}.")} == groups
    for kind in KINDS:
        scores = np.array(table[kind].tolist())
        assert scores.shape == (len(table), 2, 2)
        assert ((scores >= 0) & (scores <= 1)).all()
    assert table["held_out_loss"].iloc[-1] < table["held_out_loss"].iloc[0] - 1
    assert table["held_out_loss"][0] == pytest.approx(np.log(50257), abs=0.2), "random weights guess"
    assert all(isinstance(text, str) and text for text in table["sample"])
    assert table["learning_rate"].iloc[-1] == recipe.learning_rate


def test_a_checkpoint_is_a_model_like_any_other_and_has_the_losses_of_its_row(tmp_path):
    recipe = tiny_recipe()
    run, data = trained(tmp_path / "run", recipe), tiny_data(recipe)
    table = run.steps().set_index("step")
    for step, path in run.checkpoints().items():
        engine = gptviz.load(path, device="cpu")
        assert engine.config == recipe.config
        ids = np.array([*data.shared_row.ids, 0])
        losses = []
        for inputs, targets in zip(*data.held_out(), strict=True):
            logits = torch.tensor(engine.run(engine.tokenizer.tokens(ids[inputs].tolist()))["logits"])
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[targets])).item())
        assert table["held_out_loss"][step] == pytest.approx(np.mean(losses), abs=1e-4)


def test_heads_are_scored_as_the_analysis_scores_them():
    recipe = tiny_recipe()
    data = tiny_data(recipe)
    state = start(first_model(recipe, data), recipe, data.shared_row)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    sequences = repeated_sequences(data.words, 16, seed=3)
    assert all(len(ids) <= 16 and (ids[: len(ids) // 2] == ids[len(ids) // 2 :]).all() for ids in sequences)
    assert len({len(ids) for ids in sequences}) > 1, "periods vary"
    found = repetitions(state, data.words, seed=3)
    from gptviz.hooks import record

    for layer in range(2):
        tables = []
        for ids in sequences:
            with torch.inference_mode(), record(state.model, [("pattern", layer)]) as recorded:
                state.model(torch.tensor(ids[None, :-1]))
            tables.append(head_scores(recorded["pattern", layer][0].numpy(), ids[:-1].tolist()))
        for kind in KINDS:
            expected = np.mean([table[kind] for table in tables], axis=0)
            np.testing.assert_allclose(found.scores[kind][layer], expected, atol=1e-6)


def test_measuring_drops_nothing_and_counts_what_counts():
    recipe = tiny_recipe({"drop_rate": 0.5})
    data = tiny_data(recipe)
    state = start(first_model(recipe, data), recipe, data.shared_row)
    state.model.eval()
    one, other = token_losses(state, data.held_out()), token_losses(state, data.held_out())
    np.testing.assert_array_equal(one, other)
    assert one.mean() == pytest.approx(np.log(50257), abs=0.2)
    batch = data.held_out()
    batch.targets[:, :5] = -100
    assert np.isnan(token_losses(state, batch)[:, :5]).all()
    np.testing.assert_allclose(token_losses(state, batch)[:, 5:], one[:, 5:], atol=1e-6)


def test_the_in_context_score_by_value():
    losses = np.zeros((3, 20))
    losses[:, 2:4], losses[:, -2:] = 5.0, [[1.0, 2.0]] * 3
    assert in_context_score(losses) == pytest.approx(1.5 - 5.0)
    assert np.isnan(in_context_score(np.zeros((3, 9))))


def test_checkpoints_are_denser_at_the_start():
    recipe = tiny_recipe(n_steps=1000, n_checkpoints=20, measure_every=100)
    steps = sorted(checkpoint_steps(recipe))
    assert (steps[0], steps[-1], len(steps)) == (0, 1000, 20)
    gaps = np.diff(steps)
    assert (np.diff(gaps) >= -1).all()
    assert gaps[-1] > 5 * gaps[0]
    assert set(range(100, 1001, 100)) | set(steps[1:]) == set(stops(recipe))


def test_a_run_starts_from_a_trained_model(tmp_path):
    recipe = tiny_recipe({"vocab_size": 50257}, shared_row=False, most_frequent_ids=None, learning_rate=0.0, n_steps=2)
    model, data = untrained_model(recipe.config, seed=5), tiny_data(recipe)
    run = Run.create(tmp_path / "run", recipe, data, model)
    list(run.train(data))
    last, _ = load_model(run.checkpoints()[2])
    assert torch.equal(last.tok_emb.weight, model.tok_emb.weight)
    assert run.about["starts_from"] == "a trained model"
    with pytest.raises(RecipeError, match="set shared_row to false"):
        Run.create(tmp_path / "other", tiny_recipe(), tiny_data(), model)
    other = tiny_recipe({"n_layers": 1}, shared_row=False, most_frequent_ids=None)
    with pytest.raises(RecipeError, match="not of the shape"):
        Run.create(tmp_path / "other", other, tiny_data(other), model)


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.pt", "steps.parquet", "step-0000020.safetensors"])
def test_a_full_disk_is_a_sentence_and_nothing_before_it_is_lost(tmp_path, monkeypatch, name):
    recipe = tiny_recipe()
    whole = trained(tmp_path / "whole", recipe)
    run, data = Run.create(tmp_path / "run", recipe, tiny_data(recipe)), tiny_data(recipe)
    rows, seen = run.train(data), []
    with monkeypatch.context() as patch:
        fsync = os.fsync

        def full(descriptor):
            if len(seen) >= 3 and name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=rf"^{name} cannot be written \(No space left on device\): make room"):
            follow(rows, seen)
    assert not list((tmp_path / "run").rglob("*.part"))
    assert len(Run(tmp_path / "run").steps()) >= len(seen) >= 3
    list(Run(tmp_path / "run").train(data))
    same_files(Run(tmp_path / "run"), whole)


def test_a_write_that_the_system_refuses_leaves_the_old_file(tmp_path):
    """The kernel refuses to make a file larger than the limit, in the middle of writing it."""
    code = """
import resource, sys
from pathlib import Path
from gptviz.training.run import RunError, write_file
path = Path(sys.argv[1])
write_file(path, b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_file(path, b"new" * 1000)
except RunError as error:
    print(error, path.read_bytes(), len(list(path.parent.iterdir())))
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.bin")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    sentence = "a.bin cannot be written (File too large): make room, and go on with --resume. b'old' 1\n"
    assert found.stdout == sentence


def test_only_one_process_trains_a_run(tmp_path):
    data = tiny_data()
    run = Run.create(tmp_path / "run", tiny_recipe(), data)
    rows = run.train(data)
    next(rows)
    with pytest.raises(RunError, match="Another process trains the run in run"):
        next(Run(tmp_path / "run").train(data))
    rows.close()
    next(Run(tmp_path / "run").train(data))


def test_another_text_is_refused(tmp_path):
    run = Run.create(tmp_path / "run", tiny_recipe(), tiny_data())
    with pytest.raises(RunError, match="The text is not the one"):
        next(run.train(text_data(some_text(seed=4), tiny_recipe())))


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        Run.create(tmp_path / "run", tiny_recipe(), tiny_data())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": 1}', b'{"format": 2, "recipe": {}}'])
def test_a_damaged_run_json_is_a_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"is damaged|another format"):
        Run(tmp_path)


@pytest.mark.parametrize("name", ["state.pt", "steps.parquet"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_file_is_a_sentence(tmp_path, name, share):
    run = trained(tmp_path / "run", tiny_recipe(), 2)
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RunError, match=rf"^{name} of run is damaged: start a new run\.$"):
        list(run.train(tiny_data()))


def test_a_run_without_its_state_is_a_sentence(tmp_path):
    run = trained(tmp_path / "run", tiny_recipe(), 2)
    (tmp_path / "run/state.pt").unlink()
    with pytest.raises(RunError, match=r"has no state\.pt, so it cannot go on"):
        list(run.train(tiny_data()))


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "text.txt").write_text(some_text())
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(tiny_recipe(n_steps=400, measure_every=20))))
    return tmp_path


def arguments(files, *more):
    return ["train", "--text", str(files / "text.txt"), "--out", str(files / "run"), "--device", "cpu", *more]


def test_the_command_trains_and_says_so(files, capsys):
    recipe = ["--config", str(files / "recipe.json"), "--steps", "10", "--seed", "3"]
    assert main(arguments(files, *recipe)) == 0
    out, err = capsys.readouterr()
    assert "guessing 10.82, unigram 2.77, bigram 2.73" in out
    assert "step     10  loss" in out
    assert "10/10" in err
    assert Run(files / "run").recipe.seed == 3
    assert main(arguments(files, *recipe)) == 2
    assert capsys.readouterr().err == "gptviz: run is not empty: take another folder, or go on with --resume.\n"
    assert main(arguments(files, "--resume")) == 0
    assert main(arguments(files, "--resume", "--config", str(files / "recipe.json"))) == 2
    assert "goes on by its own recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--resume"], "There is no run in run"),
        ([], "No recipe is given: add --config with live, live-one-layer, or a file."),
        (["--config", "no-such.toml"], "no-such.toml"),
        (["--config", "live", "--steps", "0"], "n_steps is 0"),
        (["--config", "live"], "The text has 16 different tokens: make longest_period that at most."),
    ],
)
def test_errors_of_the_command_are_one_sentence(files, capsys, more, sentence):
    assert main(arguments(files, *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_a_signal_ends_goes_on_as_if_nothing_had_been(files, number):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gptviz", *arguments(files)]
    process = subprocess.Popen(
        [*command, "--config", str(files / "recipe.json")],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step     20"):
            break
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or error.splitlines()[-1] == STOPPED
    stopped = Run(files / "run")
    assert 20 <= stopped.steps()["step"].max() < 400
    subprocess.run([*command, "--resume"], cwd=ROOT, env=environment, check=True, capture_output=True)

    recipe = stopped.recipe
    data = text_data(some_text(), recipe)
    whole = Run.create(files / "whole", recipe, data)
    list(whole.train(data))
    same_files(Run(files / "run"), whole)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("n_layers", "least", "most"), [(2, 0.5, 1.0), (1, 0.0, 0.1)])
def test_an_induction_head_forms_in_two_layers_and_not_in_one(tmp_path, n_layers, least, most):
    live = PRESETS["live"]
    recipe = dataclasses.replace(
        live, config={**live.config, "n_layers": n_layers}, n_steps=1000, batch_size=16, most_frequent_ids=600,
        random_share=0.5, measure_every=1000, n_checkpoints=2,
    )  # fmt: skip
    data = text_data((ROOT / "tests/data/held_out.txt").read_text(encoding="utf-8"), recipe)
    *_, last = Run.create(tmp_path / "run", recipe, data).train(data)
    assert least <= max(max(layer) for layer in last["induction"]) <= most


def test_every_recipe_of_the_repository_can_be_read():
    files = sorted((ROOT / "recipes").iterdir())
    assert files
    for file in files:
        recipe = read_recipe(file)
        assert set(tomllib.loads(file.read_text())) <= set(dataclasses.asdict(recipe))


def test_the_story_recipe_has_the_bundled_models_shape():
    config = read_recipe(ROOT / "recipes/story-gpt.toml").config
    assert {**config, "drop_rate": 0.1} == gptviz.MODELS["story-gpt"].config


def test_the_format_is_documented():
    text = (ROOT / "docs/training.md").read_text()
    columns = {name.split(".")[0] for name in runs._schema(["tok_emb"]).names}
    assert all(f"`{name}" in text for name in columns)
    assert all(f"`{field.name}`" in text for field in dataclasses.fields(gptviz.training.Recipe))
