"""Run Streamlit's own command, and append one line of token ids to a file for every run of an engine.

`python -m benchmarks.counted_server FILE run app.py ...`
"""

import sys
from pathlib import Path
from typing import Any

from streamlit.web.cli import main

import gptviz


def count_runs(note: Path) -> None:
    """Make every later run of an engine append a line to `note`."""
    run = gptviz.Engine.run

    def counted(engine: gptviz.Engine, *arguments: Any, **settings: Any) -> gptviz.Trace:
        trace = run(engine, *arguments, **settings)
        with note.open("a") as file:
            file.write(" ".join(map(str, trace.tokens.ids)) + "\n")
        return trace

    gptviz.Engine.run = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    count_runs(Path(sys.argv[1]))
    main(sys.argv[2:])
