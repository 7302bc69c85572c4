"""Untrained models of the same shape: the untrained twin, and the course's skeleton."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import GPTConfig
from ..engine import Engine
from ..tokens import Tokens
from ..weights import dummy_model, untrained_model


def untrained_twin(engine: Engine, seed: int = 0) -> Engine:
    """An engine of the same shape with random weights."""
    model = untrained_model(engine.config, seed, tied_head=engine.tied_head)
    return Engine(model, engine.config, name=f"{engine.name}, untrained", device=engine.device)


def dummy_logits(config: GPTConfig, texts: Sequence[Tokens], *, seed: int = 0) -> NDArray[np.float32]:
    """Logits [text, vocab_size] of the course's DummyGPTModel of this shape after each text."""
    model = dummy_model(config, seed)
    with torch.inference_mode():
        streams = [model.stream(torch.tensor(tokens.ids)[None])[:, -1] for tokens in texts]
        return np.stack([model.out_head(model.final_norm(stream))[0].numpy() for stream in streams])
