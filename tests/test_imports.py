"""Imports follow the contracts in pyproject.toml, and modules that few users need are not always loaded."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptviz

ROOT = Path(__file__).parents[1]

FILES = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "app.py", *ROOT.glob("gptviz/**/*.py"), *ROOT.glob("pages/**/*.py")]
)


def lint_imports(folder):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_on_imports_hold():
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("gptviz/model/gpt.py", "from ..config import GPTConfig"),
        ("gptviz/model/gpt.py", "import numpy"),
        ("gptviz/hooks.py", "from .model import GPTModel"),
        ("gptviz/hooks.py", "from gptviz import model"),
        ("gptviz/trace.py", "import streamlit as st"),
        ("gptviz/trace.py", "import torch"),
        ("gptviz/trace.py", "from .engine import Engine"),
        ("gptviz/numerics/ranking.py", "from ..tokens import strings_of"),
        ("gptviz/numerics/ranking.py", "from ..hooks import Key"),
        ("gptviz/analysis/logit_lens.py", "def lens():\n    import torch.nn"),
        ("gptviz/analysis/logit_lens.py", "from ..charts import theme"),
        ("gptviz/analysis/logit_lens.py", "from ..engine import Engine"),
        ("gptviz/analysis/logit_lens.py", "from ..experiments import dropout"),
        ("gptviz/experiments/dropout.py", "import plotly"),
        ("gptviz/charts/theme.py", "from torch import Tensor"),
        ("gptviz/charts/theme.py", "import streamlit"),
        ("gptviz/charts/theme.py", "from gptviz import engine"),
        ("gptviz/charts/theme.py", "from ..trace import Trace"),
        ("gptviz/ui/state.py", "import torch"),
        ("gptviz/ui/state.py", "from gptviz.model import GPTModel"),
        ("gptviz/engine.py", "from . import ui"),
        ("gptviz/__main__.py", "from gptviz.ui import state"),
        ("gptviz/new.py", "import numpy"),
        ("pages/tokens.py", "import torch"),
        ("pages/tokens.py", "from pages import attention"),
    ],
)
def test_the_contracts_forbid(tmp_path, file, line):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    found = lint_imports(tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "BROKEN" in found.stdout


def test_the_router_imports_the_app_alone():
    """import-linter checks packages only."""
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported == {"os", "streamlit", "gptviz.ui", "pages"}


STATE = {"session_state", "query_params"}


def touches_of_state(source):
    for node in ast.walk(ast.parse(source)):
        words = {
            ast.Attribute: lambda node: [node.attr],
            ast.Name: lambda node: [node.id],
            ast.Constant: lambda node: [node.value] if isinstance(node.value, str) else [],
            ast.Import: lambda node: [part for alias in node.names for part in alias.name.split(".")],
            ast.ImportFrom: lambda node: [*(node.module or "").split("."), *(alias.name for alias in node.names)],
        }.get(type(node), lambda _: [])(node)
        yield from STATE & set(words)


@pytest.mark.parametrize("file", [file for file in FILES if file != "gptviz/ui/state.py"])
def test_the_state_is_touched_in_its_own_module_only(file):
    assert list(touches_of_state((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "st.session_state['a'] = 1",
        "import streamlit\nstreamlit.session_state.a",
        "from streamlit import session_state",
        "from streamlit import query_params as q",
        "getattr(st, 'session_state')",
        "x = st\nx.query_params",
        "import streamlit.runtime.state.session_state",
    ],
)
def test_every_spelling_of_the_state_is_seen(source):
    assert list(touches_of_state(source)) != []


def run_python(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_charts_and_numerics_work_where_torch_and_tiktoken_are_not_installed():
    found = run_python(
        BLOCK.format(("torch", "tiktoken", "streamlit"))
        + """
import pkgutil
from importlib import import_module
import numpy as np
import gptviz.charts, gptviz.numerics
for package in (gptviz.charts, gptviz.numerics):
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
print(type(gptviz.charts.head_grid(gptviz.numerics.sampling.softmax(np.eye(2)), what="weight")).__name__)
"""
    )
    assert (found.stdout.strip(), found.stderr) == ("Figure", "")


def test_every_public_name_is_there_and_others_are_not():
    for name in gptviz.__all__:
        assert getattr(gptviz, name) is not None
    assert set(gptviz.__all__) <= set(dir(gptviz))
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        gptviz.Model  # noqa: B018


@pytest.mark.slow
def test_importing_gptviz_loads_neither_the_app_nor_what_few_need():
    found = run_python(
        "import sys, gptviz; print(sorted(sys.modules.keys() & "
        "{'streamlit', 'transformers', 'huggingface_hub', 'plotly', 'gptviz.ui', 'gptviz.charts'}))"
    )
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


@pytest.mark.slow
def test_the_library_works_where_streamlit_is_not_installed():
    found = run_python(
        BLOCK.format(("streamlit", "transformers"))
        + """
import gptviz
import gptviz.charts
engine = gptviz.load("story-gpt", device="cpu")
trace = engine.run("Every effort moves you")
print(trace["pattern", 3].shape, len(trace.top_k()), len(list(engine.generate("Once", 2))))
"""
    )
    assert (found.stdout.strip(), found.stderr) == ("(6, 4, 4) 10 2", "")


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    found = subprocess.run(
        [sys.executable, "-m", "deptry", ".", "--no-ansi"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
