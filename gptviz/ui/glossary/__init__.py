"""The glossary: the field's words, what each one means, its formula, its source, and the page that shows it."""

from .methods import METHODS
from .model import MODEL
from .term import Term

__all__ = ["LETTERS", "TERMS", "Term", "find", "tooltip"]

LETTERS = (
    "In the formulas, x is a token's vector in the residual stream; i, j and k are positions from 0 to n - 1, t and u "
    "tokens, h a head, l a layer; A is an attention pattern, z a part's output, p a probability, LN a LayerNorm, W a "
    "learned matrix and b a learned bias."
)
TERMS: tuple[Term, ...] = tuple(sorted((*MODEL, *METHODS), key=lambda term: term.name.casefold()))
_BY_NAME = {term.name: term for term in TERMS}


def find(words: str) -> tuple[Term, ...]:
    """Return the terms that hold all these words in their name or definition, in upper or lower case.

    The term of exactly this name comes first, then those that hold the words in their name. An empty string finds all.
    """
    found = [term for term in TERMS if _holds(f"{term.name} {term.definition}", words)]
    return tuple(sorted(found, key=lambda term: (not term.is_called(words), not _holds(term.name, words))))


def _holds(text: str, words: str) -> bool:
    return all(word in text.casefold() for word in words.casefold().split())


def tooltip(name: str) -> str:
    """Return a term's definition, for `help=` and for titles in HTML. Raises `KeyError` for an unknown name."""
    return _BY_NAME[name].definition
