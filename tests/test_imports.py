"""The way of the data goes one way: which file may import what. A new file needs a line in the table."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptviz

ROOT = Path(__file__).parents[1]

LIBRARY = {
    "gptviz.analysis",
    "gptviz.cache",
    "gptviz.catalog",
    "gptviz.config",
    "gptviz.engine",
    "gptviz.hooks",
    "gptviz.hub",
    "gptviz.interventions",
    "gptviz.model",
    "gptviz.numerics",
    "gptviz.experiments",
    "gptviz.tokens",
    "gptviz.trace",
    "gptviz.verify",
    "gptviz.version",
    "gptviz.weights",
}
TABLES_AND_FIGURES = {"numpy", "pandas", "plotly"}
APP = TABLES_AND_FIGURES | {"streamlit", "gptviz", "gptviz.charts", "gptviz.ui"}

# A file or folder -> what it may import besides the standard library, submodules included.
ALLOWED = {
    "gptviz/__init__.py": LIBRARY,
    "gptviz/__main__.py": {"numpy", "pandas", "gptviz"} | LIBRARY,
    "gptviz/version.py": set(),
    "gptviz/config.py": set(),
    "gptviz/cache.py": set(),
    "gptviz/catalog.py": {"gptviz.config"},
    "gptviz/tokens.py": {"numpy", "regex", "tiktoken"},
    "gptviz/numerics": {"numpy", "pandas", "gptviz.numerics"},
    "gptviz/hub.py": {"huggingface_hub", "tqdm"},
    "gptviz/model": {"torch", "gptviz.model"},
    "gptviz/hooks.py": {"torch"},
    "gptviz/interventions.py": {"numpy", "torch", "gptviz.config", "gptviz.hooks"},
    "gptviz/weights.py": {"psutil", "torch", "safetensors", "gptviz.config", "gptviz.model"},
    "gptviz/trace.py": {
        "numpy",
        "pandas",
        "gptviz.numerics",
        "gptviz.cache",
        "gptviz.config",
        "gptviz.hooks",
        "gptviz.tokens",
    },
    "gptviz/engine.py": {"numpy", "torch"} | LIBRARY - {"gptviz.verify", "gptviz.cache", "gptviz.version"},
    "gptviz/verify.py": {"numpy", "pandas"} | LIBRARY,
    "gptviz/analysis": {"numpy", "pandas"} | LIBRARY - {"gptviz.model", "gptviz.hub", "gptviz.weights"},
    "gptviz/experiments": {"numpy", "pandas"} | LIBRARY - {"gptviz.model", "gptviz.hub", "gptviz.weights"},
    "gptviz/charts": TABLES_AND_FIGURES | {"PIL", "gptviz.charts", "gptviz.numerics"},
    "gptviz/ui": TABLES_AND_FIGURES
    | {"streamlit", "threadpoolctl", "gptviz", "gptviz.charts", "gptviz.ui"}
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
        ("gptviz/analysis/logit_lens.py", "def lens():\n    import torch.nn"),
        ("gptviz/analysis/logit_lens.py", "from ..charts import theme"),
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
import gptviz.charts, gptviz.numerics
for package in (gptviz.charts, gptviz.numerics):
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
print(type(gptviz.charts.head_grid(gptviz.numerics.sampling.softmax([[1.0, 2.0]]), what="weight")).__name__)
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
