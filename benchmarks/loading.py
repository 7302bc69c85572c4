"""Loading GPT-2 small's shape from safetensors, against transformers' from_pretrained; the file is in the page cache.

The model is loaded by name from the hub's cache, as the app does it. Both sides map the file into memory, so the data
is read on first use: the second row includes a first run of 16 tokens. The third row loads a folder of the user's own,
which we read completely and check for NaN, because a training run may overwrite it.
"""

import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, in_turns, peer, row


def run(repeats: int) -> list[Row]:
    """Return three rows: loading, loading with a first run, and loading the user's own folder."""
    transformers = peer("transformers")
    folder, tokens = gpt2_folder(), ids(16)

    def theirs() -> torch.nn.Module:
        model: torch.nn.Module = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa")
        return model.eval()

    def ours(name: str | Path = "gpt2") -> gptviz.Engine:
        return gptviz.load(name, device="cpu", allow_download=False)

    def our_first_run() -> object:
        engine = ours()
        return engine.run(engine.tokenizer.tokens(tokens))

    with tempfile.TemporaryDirectory() as cache:
        _put_into_hub_cache(folder, Path(cache))
        with patch("huggingface_hub.constants.HF_HUB_CACHE", cache):
            times = in_turns(
                {
                    "theirs": theirs,
                    "ours": ours,
                    "theirs, run": torch.inference_mode()(lambda: theirs()(torch.tensor([tokens]))),
                    "ours, run": our_first_run,
                    "ours, own": lambda: ours(folder),
                },
                repeats,
            )
    times["theirs, own"] = times["theirs"]
    return [
        row(what, "", times[f"ours{end}"], "ms", against="transformers", theirs=times[f"theirs{end}"], at_most=limit)
        for what, end, limit in (
            ("loading", "", 0.5),
            ("loading and a first run", ", run", None),
            ("loading a folder of one's own", ", own", None),
        )
    ]


def _put_into_hub_cache(folder: Path, cache: Path) -> None:
    """Lay out `folder` in `cache` as huggingface_hub does: a branch that names a commit, and the commit's files."""
    repo = gptviz.MODELS["gpt2"].repo or ""
    repository = cache / f"models--{repo.replace('/', '--')}"
    for place in ("refs", "snapshots"):
        (repository / place).mkdir(parents=True)
    commit = "0" * 40
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).symlink_to(folder, target_is_directory=True)
