"""GPT-2's tokenizer, offline: text to tokens and back, with ids, bytes, and strings for display."""

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import tiktoken
from numpy.typing import NDArray

VOCAB_BPE = Path(__file__).parent / "data" / "gpt2-bpe" / "vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256

# How GPT-2 cuts a text into words before it merges bytes (OpenAI, gpt-2/src/encoder.py).
_WORD_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_LONE_SURROGATE = re.compile("([\ud800-\udfff])")
_VISIBLE_WHITESPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
# Fillers, variation selectors and blanks: Unicode's Default_Ignorable_Code_Point without control and format
# characters, plus the Braille blank.
_DRAWN_AS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_WINDOW = 64  # characters that are searched first for a word; few words are longer


class TokenizerDataError(RuntimeError):
    """The tokenizer's file is missing or damaged."""


Token = tuple[int, bytes, str]  # id, bytes, and the string to show


@dataclass(frozen=True)
class Tokens:
    """A tokenized text. The three tuples have one entry per token."""

    ids: tuple[int, ...]
    bytes: tuple[bytes, ...]

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """Each token as `display` shows it: no blanks, no control characters, no broken bytes."""
        return tuple(
            END_OF_TEXT if id == END_OF_TEXT_ID else display(raw) for id, raw in zip(self.ids, self.bytes, strict=True)
        )

    @property
    def key(self) -> Hashable:
        """The ids as compact bytes, to look up a text's results."""
        return np.array(self.ids, dtype=np.uint32).tobytes()

    @cached_property
    def text(self) -> str:
        """The text of these tokens. A character that is cut at either end shows as U+FFFD."""
        raw = b"".join(self.bytes)
        try:
            return raw.decode("utf-8", errors="surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", errors="replace")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Token]:
        return iter(zip(self.ids, self.bytes, self.strings, strict=True))

    @overload
    def __getitem__(self, index: int) -> Token: ...
    @overload
    def __getitem__(self, index: slice) -> "Tokens": ...
    def __getitem__(self, index: int | slice) -> "Token | Tokens":
        if isinstance(index, slice):
            return Tokens(self.ids[index], self.bytes[index])
        return self.ids[index], self.bytes[index], self.strings[index]

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.ids + other.ids, self.bytes + other.bytes)


@dataclass(frozen=True)
class Merge:
    """One step of byte-pair encoding: the word's pieces after a merge, and the rank of that merge.

    Lower ranks were learned earlier and go first. The rank is None before the first merge.
    """

    pieces: tuple[bytes, ...]
    rank: int | None


class Tokenizer:
    """GPT-2's byte-pair encoding, built from the merges that ship with the package."""

    def __init__(self, vocab_bpe: Path = VOCAB_BPE) -> None:
        self._ranks = _ranks_of_bytes(_read_checked(vocab_bpe))
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=_WORD_PATTERN, mergeable_ranks=self._ranks, special_tokens={END_OF_TEXT: END_OF_TEXT_ID}
        )
        # tiktoken drops what the pattern does not match, so this encoding returns only a text's first word.
        self._first_word = tiktoken.Encoding(
            "first word",
            pat_str=rf"\A(?:{_WORD_PATTERN})",
            mergeable_ranks={bytes([byte]): byte for byte in range(256)},
            special_tokens={},
        )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, 50,257: 256 bytes, 50,000 merges, and `<|endoftext|>`."""
        return self._encoding.n_vocab

    def encode(self, text: str, *, bos: bool = False, special: bool = False) -> Tokens:
        """Split `text` into tokens.

        `bos` puts `<|endoftext|>` in front, as GPT-2 saw it between documents. `<|endoftext|>`
        inside the text is plain text, or with `special` the special token.
        """
        ids = [END_OF_TEXT_ID] if bos else []
        # A lone surrogate is not a character, and tiktoken would replace it, so its bytes are encoded one by one.
        for part in _LONE_SURROGATE.split(text):
            if _LONE_SURROGATE.fullmatch(part):
                raw = part.encode("utf-8", errors="surrogatepass")
                ids += [self._ranks[bytes([byte])] for byte in raw]
            else:
                ids += self._encoding.encode(
                    part, allowed_special={END_OF_TEXT} if special else set(), disallowed_special=()
                )
        return self.tokens(ids)

    def tokens(self, ids: Iterable[int]) -> Tokens:
        """The tokens with these ids. An id past the vocabulary (a model with added tokens) gets a made-up name."""
        ids = tuple(ids)
        return Tokens(ids, tuple(self._bytes(id) for id in ids))

    def _bytes(self, id: int) -> bytes:
        if 0 <= id < self.vocab_size:
            return self._encoding.decode_single_token_bytes(id)
        return f"<id_{id}>".encode()

    def words(self, text: str) -> list[str]:
        """Split `text` into the words that are encoded separately; joined, they give the text again.

        tiktoken splits them, because with another library's Unicode table some words could differ from those behind
        the ids.
        """
        parts = _LONE_SURROGATE.split(text)  # every second part is a surrogate, a word of its own as in `encode`
        return [
            word
            for part in parts
            for word in ([part] if _LONE_SURROGATE.fullmatch(part) else self._words_of_characters(part))
        ]

    def _words_of_characters(self, text: str) -> Iterator[str]:
        start, window = 0, _WINDOW
        while start < len(text):
            seen = text[start : start + window]
            word = self._first_word.decode(self._first_word.encode_ordinary(seen))
            if len(word) + 1 >= len(seen) and start + window < len(text):  # the word may go on beyond
                window *= 2
                continue
            yield word
            start, window = start + len(word), _WINDOW

    def merges(self, word: str) -> list[Merge]:
        """Return the steps that build one word of `words`, merge by merge, from single bytes to its tokens."""
        pieces = [bytes([byte]) for byte in word.encode("utf-8", errors="surrogatepass")]
        steps = [Merge(tuple(pieces), None)]
        while True:
            pairs = [left + right for left, right in pairwise(pieces)]
            ranked = [(self._ranks[pair], at) for at, pair in enumerate(pairs) if pair in self._ranks]
            if not ranked:
                return steps
            rank, at = min(ranked)
            pieces[at : at + 2] = [pairs[at]]
            steps.append(Merge(tuple(pieces), rank))


@lru_cache(maxsize=1)
def gpt2_tokenizer() -> Tokenizer:
    """Return the one shared tokenizer, which is read-only."""
    return Tokenizer()


def strings_of(ids: NDArray[np.integer] | Sequence[int]) -> tuple[str, ...]:
    """Return the token of each id as `display` shows it."""
    listed: list[Any] = np.asarray(ids).tolist()
    return gpt2_tokenizer().tokens(listed).strings


def characters(tokens: Tokens) -> list[str]:
    """Return, for each token that holds only a part of a character, the whole character; "" for all others.

    A character outside of English may be cut into several tokens, whose bytes mean nothing alone.
    """
    raw = b"".join(tokens.bytes)
    ends = np.cumsum([len(part) for part in tokens.bytes]).tolist()
    found = []
    for part, end in zip(tokens.bytes, ends, strict=True):
        first, last = end - len(part), end
        while first > 0 and _continues(raw[first]):
            first -= 1
        while last < len(raw) and _continues(raw[last]):
            last += 1
        is_whole = (first, last) == (end - len(part), end)
        found.append("" if is_whole else raw[first:last].decode("utf-8", errors="replace").strip())
    return found


def _continues(byte: int) -> bool:
    """Whether a byte of UTF-8 belongs to the character of the byte before it."""
    return byte & 0b1100_0000 == 0b1000_0000


def display(raw: bytes) -> str:
    """Return a token's bytes as a string in which everything is visible.

    Space, newline, tab and carriage return become `␣ ↵ ⇥ ␍`; other invisible characters
    (controls, joiners, direction marks, fillers) become `<U+202E>`; bytes that are not UTF-8
    become `<0xF0>`; a leading combining mark sits on a dotted circle.
    """
    text = raw.decode("utf-8", errors="gptviz.show_bytes")
    shown = "".join(_visible(character) for character in text)
    return "◌" + shown if unicodedata.category(shown[:1] or " ").startswith("M") else shown


def _visible(character: str) -> str:
    if character in _VISIBLE_WHITESPACE:
        return _VISIBLE_WHITESPACE[character]
    category = unicodedata.category(character)
    if category.startswith(("C", "Z")) or _DRAWN_AS_NOTHING.match(character):
        return f"<U+{ord(character):04X}>"
    return character


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: `<0xF0>` for each byte that is not UTF-8."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(f"<0x{byte:02X}>" for byte in bad), error.end


codecs.register_error("gptviz.show_bytes", _show_bytes)


def _read_checked(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerDataError(f"The tokenizer's file {path.name} cannot be read: install gptviz again.") from error
    if hashlib.sha256(content).hexdigest() != VOCAB_BPE_SHA256:
        raise TokenizerDataError(f"The tokenizer's file {path.name} is damaged: install gptviz again.")
    return content.decode("utf-8")


def _ranks_of_bytes(vocab_bpe: str) -> dict[bytes, int]:
    """Return the id of each mergeable byte string. The 256 single bytes come first, then one id per merge.

    `vocab.bpe` writes each byte as one visible character: printable bytes as themselves, the
    others as the characters from U+0100 on. The ids of single bytes follow the same order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(0x100 + offset): byte for offset, byte in enumerate(others)}

    ranks = {bytes([byte]): id for id, byte in enumerate(printable + others)}
    _version, *merges = vocab_bpe.splitlines()
    for merge in merges:
        ranks[bytes(byte_of[character] for character in merge.replace(" ", ""))] = len(ranks)
    return ranks
