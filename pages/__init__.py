"""The pages of the app, in the order of the menu. Each module has an `ABOUT` and `show(view)`."""

from types import ModuleType

from . import (
    ablation,
    attention,
    birds_eye,
    block,
    compare,
    dropout,
    embeddings,
    glossary,
    gradients,
    next_token,
    patching,
    residual,
    tokens,
)

PAGES: dict[str, list[ModuleType]] = {
    "": [birds_eye, tokens, embeddings, attention, block, residual, next_token, glossary],
    "Experiments": [ablation, patching, compare, dropout, gradients],
}
