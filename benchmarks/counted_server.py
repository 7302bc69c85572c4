"""Streamlit's own command, in a process that notes every run of an engine: a line a run, its tokens, in a file.

`python -m benchmarks.counted_server FILE run app.py ...`
"""

import sys
from pathlib import Path
from typing import Any

from streamlit.web.cli import main

import gptviz


def count_runs(note: Path) -> None:
    """From now on every run of an engine writes a line."""
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
