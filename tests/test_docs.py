"""The documents keep their promises: every test named in docs/faults.md and every setting in SECURITY.md exists."""

import re
from pathlib import Path

import pytest

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
