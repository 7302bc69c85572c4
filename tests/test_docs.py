"""The documents keep their promises: what they name exists, and what they show runs."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
import torch
from plotly.graph_objects import Figure
from tiny import tiny_model

import gptviz
from gptviz import hub
from gptviz.__main__ import main
from gptviz.ui import limits

ROOT = Path(__file__).parents[1]
FAULTS = re.findall(
    r"^\| (?!fault|---)([^|]+) \|[^|]+\| `([^`]+)` \|$", (ROOT / "docs/faults.md").read_text(), re.MULTILINE
)
SETTINGS = re.findall(r"^\| `(GPTVIZ_\w+)` \| (\w+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("fault", "test"), FAULTS)
def test_every_fault_has_its_test(fault, test):
    file, name = test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


def test_no_row_is_passed_over():
    rows = [line for line in (ROOT / "docs/faults.md").read_text().splitlines() if line.startswith("| ")]
    n_tables = sum(row.startswith("| fault |") for row in rows)
    assert len(FAULTS) == len(rows) - 2 * n_tables > 30


def test_the_table_of_settings_is_the_codes():
    code = (ROOT / "gptviz/ui/limits.py").read_text() + (ROOT / "gptviz/ui/models.py").read_text()
    assert {name for name, _ in SETTINGS} == set(re.findall(r'"(GPTVIZ_\w+)"', code))


def test_the_usual_values_are_the_codes(monkeypatch):
    for name, _ in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    usual = limits.read()
    numbers = {name: int(word) for name, word in SETTINGS if word.isdigit()}
    assert numbers == {
        "GPTVIZ_MAX_TEXT": usual.text,
        "GPTVIZ_MAX_NEW_TOKENS": usual.new_tokens,
        "GPTVIZ_MAX_COMPUTATIONS": usual.computations,
        "GPTVIZ_MAX_WAITING": usual.waiting,
        "GPTVIZ_MAX_MODEL_MB": usual.model_megabytes,
    }


# --- what README and the docstrings show ----------------------------------------------------------


def _shown_values():
    """Each expression in README's example whose comment begins with the tuple that it gives."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return code, re.findall(r"^(\S.*?) +# (\(.*?\))(?=$|:)", code, re.MULTILINE)


def test_the_example_in_readme_runs(capsys, monkeypatch):
    monkeypatch.setattr(Figure, "show", lambda figure: print("shown", len(figure.data)))
    code, values = _shown_values()
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert re.fullmatch(r"(.+ 0\.\d+\n){10}shown [1-9]\n", capsys.readouterr().out)
    assert len(values) == 3
    for expression, value in values:
        assert eval(expression, names) == eval(value)


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(gptviz)
    assert results.attempted > 3
    assert not results.failed


@pytest.mark.slow
def test_the_command_lines_in_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "cached_folder", lambda _: None)
    torch.save(tiny_model(vocab_size=50_257).state_dict(), "model.pth")
    lines = re.findall(r"^python -m gptviz (.*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 6
    Path("my.txt").write_text((ROOT / "README.md").read_text() * 3)
    for line in lines:
        # GPT-2 would have to be downloaded first, and a whole training takes minutes.
        shorter = line.replace("verify gpt2", "verify story-gpt").replace("train", "train --steps 2")
        assert main(shlex.split(shorter)) == 0, line
        assert capsys.readouterr().out or line.startswith("trace")
    assert (tmp_path / "trace.npz").stat().st_size > 100_000


def test_the_map_names_files_that_exist():
    """docs/architecture.md writes a file as it is seen from the root, or from `gptviz/`."""
    paths = set(re.findall(r"`((?:[\w]+/)*\w+(?:\.py|\.toml|/))`", (ROOT / "docs/architecture.md").read_text()))
    assert len(paths) > 30
    ui = ROOT / "gptviz/ui"
    assert [path for path in sorted(paths) if not any((at / path).exists() for at in (ROOT, ROOT / "gptviz", ui))] == []
