"""Calibration of the logit lens: one temperature per depth, fitted on held-out text.

The output head was trained on the final stream only, so nothing keeps the logits of earlier streams in scale: the plain
lens of story-gpt is far too sure in the middle layers. Dividing its logits by a temperature mends this and leaves the
order of the tokens as it is (Guo et al. 2017, "On Calibration of Modern Neural Networks").

The measure is the mean of KL(final prediction || lens prediction), as in the tuned lens (Belrose et al. 2023,
"Eliciting Latent Predictions from Transformers with the Tuned Lens"), which fits an affine map per layer; a temperature
is one number. A lens asks what the model is about to say, so the truth is the model's own final prediction, not the
text's next token: a loss against the text would also reward a lens for being right where the model is wrong.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..analysis.logit_lens import StreamPoint, stream_points
from ..numerics.chunks import chunks
from ..numerics.predictions import Predictions, divergences, predictions
from ..tokens import END_OF_TEXT, Tokens, gpt2_tokenizer
from ..trace import Trace
from .portions import Run, run_all

MOST_POSITIONS = 64  # of [position, vocab_size], 200 kB each
HOTTEST = 1000.0  # temperatures lie between 1 / HOTTEST and HOTTEST
_POINTS_TOGETHER = 5  # these share the final predictions
_CLOSE = 1e-6  # a step of the fit that is no longer than this is the last; in the temperature's logarithm
_STORIES = Path(__file__).parents[1] / "data" / "held_out_stories.txt"


def held_out_stories(longest: int) -> tuple[tuple[Tokens, ...], tuple[Tokens, ...]]:
    """The bundled stories that story-gpt never saw, each cut to `longest` tokens: to fit on, and to check on.

    The two parts are from different books.
    """
    texts = _STORIES.read_text(encoding="utf-8").strip().split(f"\n{END_OF_TEXT}\n")
    stories = tuple(gpt2_tokenizer().encode(text)[:longest] for text in texts)
    return stories[: len(stories) // 2], stories[len(stories) // 2 :]


def calibrate_lens(fit: Sequence[Trace], check: Sequence[Trace], run: Run = run_all) -> pd.DataFrame:
    """Fit a temperature to every point of the stream on the texts `fit`, and measure what it gains on those of `check`.

    All traces must be of one engine, with nothing switched off. At most `MOST_POSITIONS` positions of either part are
    used, evenly spaced. One row per point of the stream, the embeddings first. Columns: label, temperature, kl_before
    and kl_after (mean divergence of the lens' prediction from the final one on `check`, in nats, at temperature 1 and
    at the fitted one).

        fit, check = ([engine.run(story) for story in part] for part in held_out_stories(256))
        table = calibrate_lens(fit, check)
        logit_lens(trace, temperatures=table["temperature"].tolist())
    """
    n_points = len(stream_points(fit[0].config["n_layers"]))
    portions = [(tuple(fit), tuple(check), range(some.start, some.stop)) for some in chunks(n_points, _POINTS_TOGETHER)]
    return pd.concat(run(calibrate_points, portions), ignore_index=True)


def calibrate_points(fit: Sequence[Trace], check: Sequence[Trace], numbers: range) -> pd.DataFrame:
    """`calibrate_lens` of some points of the stream, by their numbers."""
    every = stream_points(fit[0].config["n_layers"])
    points = [every[number] for number in numbers]
    final = predictions(_logits(fit, every[-1]))
    temperatures = [fitted_temperature(final, _logits(fit, point)) for point in points]
    final = predictions(_logits(check, every[-1]))
    rows = []
    for point, temperature in zip(points, temperatures, strict=True):
        logits = _logits(check, point)
        before, after = (mean_divergence(final, logits, divisor) for divisor in (1.0, temperature))
        rows.append({"label": point.label, "temperature": temperature, "kl_before": before, "kl_after": after})
    return pd.DataFrame(rows)


def fitted_temperature(final: Predictions, logits: NDArray[np.float32]) -> float:
    """The temperature of logits [row, vocab_size] that minimises `mean_divergence` from `final` [row, vocab_size].

    That mean is convex in 1 / temperature. Its slope there is the mean logit that the lens expects less the one that
    the final prediction expects: both are equal at the minimum, and the lens is too sure where the first is higher.
    If they are equal nowhere between 1 / HOTTEST and HOTTEST, the result is near the better of these ends. Found by
    Newton's method, and by halving the range where that does not converge.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    wanted = float((final.probabilities * shifted).sum(dtype=np.float64))
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    at, step = 0.0, math.inf  # the logarithm of the temperature
    while abs(step) > _CLOSE:
        mean, variance = _expected_logit(shifted, math.exp(at))
        low, high = (at, high) if mean > wanted else (low, at)
        newton = at + (mean - wanted) * math.exp(at) / max(variance, 1e-30)
        converges = low <= newton <= high and abs(newton - at) < abs(step) / 2
        following = newton if converges else (low + high) / 2
        at, step = following, following - at
    return math.exp(at)


def _expected_logit(logits: NDArray[np.float32], temperature: float) -> tuple[float, float]:
    """Mean and variance of each row's logits under its own prediction at a temperature, summed over the rows."""
    mean = variance = 0.0
    for row in logits:  # one by one, so that a row stays in the CPU cache
        weighted = predictions(row, temperature).probabilities * row
        of_row = float(weighted.sum(dtype=np.float64))
        mean += of_row
        variance += float((weighted * row).sum(dtype=np.float64)) - of_row**2
    return mean, variance


def mean_divergence(final: Predictions, logits: NDArray[np.float32], temperature: float) -> float:
    """Mean over the rows of KL(final || softmax(logits / temperature)) in nats; `logits` is [row, vocab_size]."""
    rows = zip(final.logs, final.probabilities, logits, strict=True)
    return float(np.mean([divergences(Predictions(*own), predictions(row, temperature)) for *own, row in rows]))


def _logits(traces: Sequence[Trace], point: StreamPoint) -> NDArray[np.float32]:
    """The plain lens' logits at one point, at evenly spaced positions of all traces: [row, vocab_size]."""
    stream = np.concatenate([trace[point.name, point.layer] for trace in traces])
    rows = np.linspace(0, len(stream) - 1, min(len(stream), MOST_POSITIONS)).round().astype(int)
    return traces[0].unembed(stream[rows])
