"""The peak memory of one piece of work above the loaded model; `memory` runs this in a separate process.

`python -m benchmarks.peak FOLDER transformer_lens | page NAME QUERY` prints megabytes. Linux only.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_TOKENS = 1024


def main(folder: str, what: str, *arguments: str) -> None:
    """Print the peak in megabytes."""
    work = _page(folder, *arguments) if what == "page" else _cache(folder)
    work(16)
    print(above(lambda: work(N_TOKENS)))


def above(work: Callable[[], object]) -> float:
    """Return the peak memory of the process during `work`, in megabytes above what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak (VmHWM)
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _cache(folder: str) -> Callable[[int], Any]:
    import torch
    from transformer_lens import TransformerBridge

    bridge = TransformerBridge.boot_transformers(folder, device="cpu")
    return torch.inference_mode()(lambda n_tokens: bridge.run_with_cache(torch.arange(n_tokens)[None] + 1000))


def _page(folder: str, page: str, query: str) -> Callable[[int], Any]:
    os.environ["GPTVIZ_MODELS"] = folder
    from streamlit.testing.v1 import AppTest
    from streamlit.util import calc_hash

    from gptviz.ui import models

    name = Path(folder).name
    engine = models.loaded(name).engine
    for parameter, _ in engine._model.named_parameters():
        engine.weights[parameter].sum()  # Read the parameter from the mapped file into memory.

    def show(n_tokens: int) -> None:
        app = AppTest.from_file(Path("app.py").absolute(), default_timeout=300)
        app.query_params |= {"model": name, "text": " a" * n_tokens, **json.loads(query)}
        app._page_hash = calc_hash(page)
        app.run()
        if app.exception:
            raise RuntimeError(app.exception[0].message)
        models.loaded(name).trace(engine.tokenize(" a" * n_tokens))

    return show


if __name__ == "__main__":
    main(*sys.argv[1:])
