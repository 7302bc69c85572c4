"""The way of the data goes one way: which file may import what. A new file needs a line in the table."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

LIBRARY = {
    "gptviz.analysis",
    "gptviz.cache",
    "gptviz.catalog",
    "gptviz.checkpoints",
    "gptviz.config",
    "gptviz.engine",
    "gptviz.hooks",
    "gptviz.hub",
    "gptviz.interventions",
    "gptviz.model",
    "gptviz.naming",
    "gptviz.pickles",
    "gptviz.quote",
    "gptviz.tokens",
    "gptviz.trace",
    "gptviz.verify",
    "gptviz.version",
    "gptviz.weights",
}
FILES_AND_MODELS = {f"gptviz.{name}" for name in ("checkpoints", "hub", "model", "naming", "pickles", "weights")}
TABLES_AND_FIGURES = {"numpy", "pandas", "plotly"}
APP = TABLES_AND_FIGURES | {"streamlit", "gptviz", "gptviz.charts", "gptviz.ui"}

# A file or folder -> what it may import besides the standard library, submodules included.
ALLOWED = {
    "gptviz/__init__.py": LIBRARY,
    "gptviz/__main__.py": {"numpy", "pandas", "gptviz"} | LIBRARY,
    "gptviz/version.py": set(),
    "gptviz/quote.py": set(),
    "gptviz/config.py": {"gptviz.quote"},
    "gptviz/cache.py": set(),
    "gptviz/catalog.py": {"gptviz.config"},
    "gptviz/tokens.py": {"tiktoken"},
    "gptviz/hub.py": {"huggingface_hub"},
    "gptviz/model": {"torch", "gptviz.model"},
    "gptviz/hooks.py": {"torch"},
    "gptviz/interventions.py": {"numpy", "torch", "gptviz.config", "gptviz.hooks"},
    "gptviz/pickles.py": {"torch"},
    "gptviz/checkpoints.py": {"psutil", "torch", "safetensors", "gptviz.pickles", "gptviz.quote"},
    "gptviz/naming.py": {"torch", "gptviz.checkpoints", "gptviz.quote"},
    "gptviz/weights.py": {
        "torch",
        "gptviz.checkpoints",
        "gptviz.config",
        "gptviz.model",
        "gptviz.naming",
        "gptviz.quote",
    },
    "gptviz/trace.py": {
        "numpy",
        "pandas",
        "gptviz.analysis",
        "gptviz.cache",
        "gptviz.config",
        "gptviz.hooks",
        "gptviz.tokens",
    },
    "gptviz/engine.py": {"numpy", "torch"} | LIBRARY - {"gptviz.verify", "gptviz.cache", "gptviz.version"},
    "gptviz/verify.py": {"numpy", "pandas"} | LIBRARY,
    "gptviz/analysis": {"numpy", "pandas"} | LIBRARY - FILES_AND_MODELS,
    "gptviz/charts": TABLES_AND_FIGURES | {"PIL", "gptviz.charts", "gptviz.analysis"},
    "gptviz/ui": TABLES_AND_FIGURES
    | {"streamlit", "starlette", "threadpoolctl", "gptviz", "gptviz.charts", "gptviz.ui"}
    | LIBRARY - {"gptviz.model"},
    "pages": TABLES_AND_FIGURES | {"streamlit", "gptviz", "gptviz.charts", "gptviz.ui"} | LIBRARY - {"gptviz.model"},
    "app.py": {"streamlit", "gptviz", "gptviz.ui"},
}
FILES = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "app.py", *ROOT.glob("gptviz/**/*.py"), *ROOT.glob("pages/**/*.py")]
)


def rule_of(file):
    return max((rule for rule in ALLOWED if file == rule or file.startswith(f"{rule}/")), key=len)


def imports(tree, file):
    """Absolute names of all modules that a file imports, wherever in it; of gptviz down to its parts."""
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            module = module if node.level else node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from ([name if is_module(name) else module for name in names] if module == "gptviz" else [module])


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def is_allowed(module, allowed):
    if module.split(".")[0] in sys.stdlib_module_names:
        return True
    return any(
        module == name or (name != "gptviz" and module.startswith(f"{name}.")) for name in allowed
    )  # "gptviz" itself stands for its public names, not for its parts


def forbidden_imports(source, file):
    return [name for name in imports(ast.parse(source), file) if not is_allowed(name, ALLOWED[rule_of(file)])]


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_its_place_allows(file):
    assert any(file == rule or file.startswith(f"{rule}/") for rule in ALLOWED), f"{file} has no line in the table"
    assert forbidden_imports((ROOT / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("gptviz/model/gpt.py", "from ..config import GPTConfig"),
        ("gptviz/model/gpt.py", "import numpy"),
        ("gptviz/hooks.py", "from .model import GPTModel"),
        ("gptviz/hooks.py", "from gptviz import model"),
        ("gptviz/trace.py", "import streamlit as st"),
        ("gptviz/trace.py", "import torch"),
        ("gptviz/analysis/lens.py", "def lens():\n    import torch.nn"),
        ("gptviz/analysis/lens.py", "from ..charts import theme"),
        ("gptviz/charts/theme.py", "from torch import Tensor"),
        ("gptviz/charts/theme.py", "import streamlit"),
        ("gptviz/charts/theme.py", "from gptviz import engine"),
        ("gptviz/ui/state.py", "import torch"),
        ("gptviz/engine.py", "from . import ui"),
        ("gptviz/__main__.py", "from gptviz.ui import state"),
        ("pages/tokens.py", "import torch"),
        ("pages/tokens.py", "from pages import attention"),
        ("pages/tokens.py", "from . import attention"),
        ("pages/tokens.py", "import attention"),
        ("app.py", "import pages.attention"),
    ],
)
def test_the_table_forbids(file, line):
    assert forbidden_imports(line, file) != []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("gptviz/model/gpt.py", "from torch.nn import functional\nfrom .layers import GELU\nimport math"),
        ("gptviz/trace.py", "from .hooks import ACTIVATIONS"),
        ("pages/tokens.py", "from gptviz.ui import state\nfrom gptviz import charts, load\nimport streamlit as st"),
    ],
)
def test_the_table_allows(file, line):
    assert forbidden_imports(line, file) == []


IMPORTED_AS = {"pillow": "PIL"}  # distribution -> its module, where it has another name


def test_what_is_imported_is_declared_and_the_other_way_round():
    """One's own requirements may drop theirs: what is imported here is required here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for_all, for_app = project["dependencies"], project["optional-dependencies"]["app"]
    assert modules_of(line for line in lines if not line.startswith("#")) == modules_of(for_all + for_app)
    ours = {"gptviz", "pages"} | set(sys.stdlib_module_names)
    for declared, files in (
        (for_all, [file for file in FILES if file.startswith("gptviz/") and not file.startswith("gptviz/ui/")]),
        (for_all + for_app, FILES),
    ):
        trees = [(ast.parse((ROOT / file).read_text(encoding="utf-8")), file) for file in files]
        assert {name.split(".")[0] for tree in trees for name in imports(*tree)} - ours == modules_of(declared)


def modules_of(requirements):
    names = [Requirement(line).name for line in requirements]
    return {IMPORTED_AS.get(name, name) for name in names}


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
        """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("streamlit", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import gptviz
import gptviz.charts
engine = gptviz.load("story-gpt", device="cpu")
trace = engine.run("Every effort moves you")
print(trace["pattern", 3].shape, len(trace.top_k()), len(list(engine.generate("Once", 2))))
"""
    )
    assert (found.stdout.strip(), found.stderr) == ("(6, 4, 4) 10 2", "")
