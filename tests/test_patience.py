"""No test's verdict depends on the speed of the machine: no wait ends early."""

import ast
from pathlib import Path

import patience
import pytest

FILES = sorted(Path(__file__).parent.glob("*.py"))
WAITS = {"wait", "acquire", "result", "exception", "join", "communicate", "timeout", "set_default_timeout"}
NAMES = {"timeout", "open_timeout", "default_timeout"}
IN_MILLISECONDS = {"wait_for", "set_default_timeout"}
NO_VERDICT = {"process.wait(timeout=10)"}  # A server that does not stop when it is told to is killed.


def early_ends(source):
    """Yield the calls whose timeout is a literal number below `patience.SECONDS`."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and ast.unparse(call) not in NO_VERDICT:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            values = [word.value for word in call.keywords if word.arg in NAMES]
            values += call.args[:1] if name in WAITS else []
            least = patience.SECONDS * (1000 if name in IN_MILLISECONDS else 1)
            if any(is_number(value) and value.value < least for value in values):
                yield ast.unparse(call)


def is_number(value):
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_wait_ends_early(path):
    assert list(early_ends(path.read_text())) == []


@pytest.mark.parametrize(
    "call",
    [
        "event.wait(5)",
        "future.result(30)",
        "lock.acquire(timeout=30)",
        "AppTest.from_file('app.py', default_timeout=60)",
        "error.wait_for(timeout=60000)",
        "page.set_default_timeout(20000)",
        "pytest.mark.timeout(20)",
    ],
)
def test_an_early_end_is_seen(call):
    assert list(early_ends(call)) == [call]


def test_a_late_end_is_none():
    assert list(early_ends("event.wait(600); error.wait_for(timeout=600000); ','.join(words); thread.join()")) == []
