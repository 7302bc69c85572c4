"""Streamlit's own command, in a process that notes every run of an engine: a line a run, its tokens, in a file.

`python -m benchmarks.counted_server FILE run app.py ...`
"""

import sys
from pathlib import Path
from typing import Any

from streamlit.web.cli import main

import gptviz

_run = gptviz.Engine.run


def _counted(engine: gptviz.Engine, text: Any, **settings: Any) -> gptviz.Trace:
    trace = _run(engine, text, **settings)
    with Path(sys.argv[1]).open("a") as file:
        file.write(" ".join(map(str, trace.tokens.ids)) + "\n")
    return trace


if __name__ == "__main__":
    gptviz.Engine.run = _counted  # type: ignore[method-assign]
    main(sys.argv[2:])
