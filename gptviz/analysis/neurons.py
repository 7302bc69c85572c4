"""Neurons of a block's MLP: which fire for a token, and their direct effect on the logits."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..parameters import Weights
from .logit_attribution import direct_effect


def strongest_neurons(post: NDArray[np.floating], position: int, k: int = 10) -> pd.DataFrame:
    """The k neurons that fire most for the token at `position`, one row per neuron, the strongest first.

    `post` [pos, neuron] holds a layer's activations after GELU. Columns: neuron, activation, and
    share_below: the share of the text's other tokens for which it fires less (NaN if there are none).
    """
    activations = post[position]
    neurons = np.argsort(-activations, kind="stable")[:k]
    n_below = (post[:, neurons] < activations[neurons]).sum(axis=0)
    n_others = len(post) - 1
    share_below = n_below / n_others if n_others else np.full(len(neurons), np.nan)
    return pd.DataFrame({"neuron": neurons, "activation": activations[neurons], "share_below": share_below})


def neuron_effect(
    weights: Weights, layer: int, neurons: NDArray[np.integer] | list[int], scale: float = 1.0
) -> NDArray[np.floating]:
    """Direct effect of each neuron on all logits for an activation of 1: [neuron] -> [neuron, vocab_size].

    A neuron adds its column of the MLP's second matrix to the stream, times its activation
    (Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories"). `scale` is as in
    `direct_effect`; `pushed_tokens` of a row names the tokens.
    """
    return direct_effect(weights, weights.w_out(layer)[neurons], scale)
