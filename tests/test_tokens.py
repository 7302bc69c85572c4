import re
import sys
import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import regex  # a dependency of tiktoken, with different Unicode tables
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gptviz.tokens import END_OF_TEXT_ID, VOCAB_BPE, Tokenizer, TokenizerDataError, display, gpt2_tokenizer, strings_of

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # every code point, including lone surrogates
ASSIGNED = st.characters(exclude_categories=("Cn", "Cs", "Co"))
# Runs of each kind that the word pattern distinguishes: hypothesis alone seldom puts two letters side by side.
TEXT_LIKE = st.lists(
    st.one_of(
        st.text(ASSIGNED, max_size=5),
        st.from_regex(r"[a-zA-Z']{1,8}|[0-9]{1,4}|[ \t\n\r]{1,4}|'(s|t|re|ve|m|ll|d)|[.,!?\-]{1,3}", fullmatch=True),
        st.sampled_from([" the", " and", "ing", "\u00a0", "\u3000", "\u2028", "é", "日本語", "🙂", "\x1f", "\x85"]),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return gpt2_tokenizer()


def encode(text, **switches):
    return gpt2_tokenizer().encode(text, **switches)


def test_published_ids():
    assert encode("Every effort moves you").ids == (6109, 3626, 6100, 345)
    assert encode("Hello, world!").ids == (15496, 11, 995, 0)
    assert gpt2_tokenizer().vocab_size == 50257


@settings(deadline=None, max_examples=300)
@given(ANY_TEXT)
def test_any_text_comes_back(text):
    tokens = encode(text)
    assert tokens.text == text
    assert b"".join(tokens.bytes) == text.encode("utf-8", errors="surrogatepass")


@settings(deadline=None, max_examples=300)
@given(TEXT_LIKE)
def test_ids_alone_give_the_text_back(text):
    assert gpt2_tokenizer().tokens(encode(text).ids).text == text


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\ud83d\ude42", " \udfff", "\ud800" * 3, "🙂\ud83d"])
def test_lone_surrogates_come_back(text):
    assert encode(text).text == text


def test_a_character_cut_in_half_shows_as_the_replacement_character():
    tokens = encode("🙂")
    assert len(tokens) > 1
    assert tokens[:1].text == "\ufffd"
    assert (tokens[:1] + tokens[1:]).text == "🙂"


def test_tokens_read_as_id_bytes_and_string():
    tokens = encode("the cat")
    assert list(tokens) == [(1169, b"the", "the"), (3797, b" cat", "␣cat")]
    assert tokens[1] == (3797, b" cat", "␣cat")
    assert tokens[-1:] == encode(" cat")
    assert len(tokens) == 2


def test_a_leading_space_makes_another_token():
    assert encode("the").strings == ("the",)
    assert encode(" the").strings == ("␣the",)
    assert encode("the").ids != encode(" the").ids


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\n", "↵↵"),
        (b"\t", "⇥"),
        (b"\r", "␍"),
        (b"\xf0\x9f", "<0xF0><0x9F>"),
        (b" \xe2\x80", "␣<0xE2><0x80>"),
        (b"\x00", "<U+0000>"),
        (b"\x7f", "<U+007F>"),
        ("\u00a0".encode(), "<U+00A0>"),
        ("\u202e".encode(), "<U+202E>"),
        ("\u200d".encode(), "<U+200D>"),
        ("\u2028".encode(), "<U+2028>"),
        ("\u0301".encode(), "◌\u0301"),
        ("\u0e31".encode(), "◌\u0e31"),
        ("\u20dd".encode(), "◌\u20dd"),
        (b"<b>&", "<b>&"),
        ("日本".encode(), "日本"),
        ("🙂".encode(), "🙂"),
        (b"\xed\xa0\x80", "<0xED><0xA0><0x80>"),
        (b"", ""),
    ],
)
def test_what_a_token_shows(raw, shown):
    assert display(raw) == shown


@pytest.mark.parametrize("invisible", list("\ufe0f\u034f\u3164\u115f\u180b\u2800\u00ad\U000e0100"))
def test_a_character_without_a_picture_shows_its_code_point(invisible):
    assert display(invisible.encode()) == f"<U+{ord(invisible):04X}>"


def assert_all_visible(shown):
    for character in shown:
        assert not character.isspace(), repr(shown)
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}, repr(shown)
    assert not shown or not unicodedata.category(shown[0]).startswith("M"), repr(shown)


def test_every_token_of_the_vocabulary_can_be_seen(tokenizer):
    strings = tokenizer.tokens(range(tokenizer.vocab_size)).strings
    assert all(strings)
    for shown in strings:
        assert_all_visible(shown)


@settings(deadline=None, max_examples=300)
@given(st.one_of(ANY_TEXT.map(lambda text: text.encode("utf-8", errors="surrogatepass")), st.binary()))
def test_any_bytes_can_be_seen(raw):
    assert_all_visible(display(raw))
    assert bool(display(raw)) == bool(raw)


def test_an_id_past_the_vocabulary_has_a_visible_name(tokenizer):
    (shown,) = tokenizer.tokens([50300]).strings
    assert shown == "<id_50300>"


@settings(deadline=None, max_examples=300)
@given(st.one_of(TEXT_LIKE, ANY_TEXT))
def test_words_joined_give_the_text(text):
    assert "".join(gpt2_tokenizer().words(text)) == text


@settings(deadline=None, max_examples=300)
@given(st.one_of(TEXT_LIKE, st.text(st.characters(codec=None, exclude_categories=("Cn",)))))
def test_the_merges_of_all_words_end_in_the_tokens_of_the_text(text):
    tokenizer = gpt2_tokenizer()
    merged = [piece for word in tokenizer.words(text) for piece in tokenizer.merges(word)[-1].pieces]
    assert tuple(merged) == tokenizer.encode(text).bytes


@settings(deadline=None, max_examples=100)
@given(TEXT_LIKE)
def test_each_merge_joins_two_neighbours_by_the_rank_of_what_they_make(text):
    tokenizer = gpt2_tokenizer()
    for word in tokenizer.words(text):
        steps = tokenizer.merges(word)
        assert steps[0].rank is None
        assert steps[0].pieces == tuple(bytes([byte]) for byte in word.encode())
        for before, after in pairwise(steps):
            at = next(i for i, piece in enumerate(after.pieces) if piece != before.pieces[i])
            assert after.pieces == (*before.pieces[:at], b"".join(before.pieces[at : at + 2]), *before.pieces[at + 2 :])
            assert tokenizer.tokens([after.rank]).bytes == (after.pieces[at],)


@pytest.mark.parametrize("text", ["\n\n\ud800", "    \ud800", "\ud83d\ude42", "can't\udc00 stop", "\ud800 the"])
def test_a_lone_surrogate_is_a_word_of_its_own(text):
    tokenizer = gpt2_tokenizer()
    words = tokenizer.words(text)
    assert "".join(words) == text
    assert tuple(p for word in words for p in tokenizer.merges(word)[-1].pieces) == tokenizer.encode(text).bytes


# --- words are the ones the ids are made of ------------------------------------------------------

EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
_BYTES = {bytes([byte]): byte for byte in range(256)}
# tiktoken drops what a pattern does not match, so these find a character's kind by tiktoken's own Unicode tables.
_KINDS = {
    kind: tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=_BYTES, special_tokens={})
    for kind, pattern in {"L": r"\p{L}", "N": r"\p{N}", "S": r"\s"}.items()
}
_WORD_OF_KINDS = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[Lsdmtlver]+| ?N+| ?[O']+|[ S]+(?![^ S])|[ S]+")


@cache
def kind_of(character):
    """Return a character's kind in GPT-2's word pattern: itself if named there, else L, N, S, or O for all others."""
    if character in " '":
        return character
    kind = next((kind for kind, encoding in _KINDS.items() if encoding.encode_ordinary(character)), "O")
    return character if character in "sdmtlver" else kind


def words_by_kind(text):
    kinds = "".join(kind_of(character) for character in text)
    return [text[match.start() : match.end()] for match in _WORD_OF_KINDS.finditer(kinds)]


def assert_words_are_those_of_the_ids(text):
    tokenizer = gpt2_tokenizer()
    words = tokenizer.words(text)
    assert words == words_by_kind(text)
    merged = [piece for word in words for piece in tokenizer.merges(word)[-1].pieces]
    assert tuple(merged) == tokenizer.encode(text).bytes


@settings(deadline=None, max_examples=300)
@given(st.one_of(TEXT_LIKE, st.text(st.characters(codec=None, exclude_categories=("Cs",)))))
def test_words_are_cut_by_tiktokens_table_of_unicode(text):
    assert_words_are_those_of_the_ids(text)


@pytest.mark.parametrize("character", list("\u0558\u088f\u0c5c\u0cdc\u208f\u209d\U0003fc3f"))
def test_a_character_that_tables_of_unicode_disagree_about_is_cut_as_in_the_ids(character):
    for text in (f"a{character}", f"1{character}", f" {character}{character}", f"!{character}a"):
        assert_words_are_those_of_the_ids(text)


@pytest.mark.slow
def test_words_are_those_of_the_ids_for_every_character():
    for start in range(0, len(EVERY_CHARACTER), 1000):
        some = EVERY_CHARACTER[start : start + 1000]
        assert_words_are_those_of_the_ids("".join(f"a{character}1{character} {character}!" for character in some))


@pytest.mark.parametrize(
    "text",
    ["a" * 5000, " " * 5000, "a" * 63 + "'ll", "!" * 62 + "'s", "x" * 61 + "   y", "x" * 62 + "   y", "字," * 2000],
)
def test_long_words_stay_whole(text):
    assert gpt2_tokenizer().words(text) == words_by_kind(text)


def test_what_has_no_picture_is_unicodes_list():
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    for character in EVERY_CHARACTER:
        if ignorable.match(character):
            assert display(character.encode()).endswith(f"<U+{ord(character):04X}>"), hex(ord(character))


def test_merges_of_a_known_word():
    steps = gpt2_tokenizer().merges(" the")
    assert [step.pieces for step in steps] == [
        (b" ", b"t", b"h", b"e"),
        (b" t", b"h", b"e"),
        (b" t", b"he"),
        (b" the",),
    ]
    assert [step.rank for step in steps] == [None, 256, 258, 262]


def test_typed_end_of_text_is_text_unless_asked():
    text = "a<|endoftext|>b"
    assert END_OF_TEXT_ID not in encode(text).ids
    assert encode(text).text == text
    assert encode(text, special=True).ids == (64, END_OF_TEXT_ID, 65)
    assert encode(text, special=True).text == text


def test_bos_puts_end_of_text_in_front_and_nothing_else():
    assert encode("Hi there", bos=True).ids == (END_OF_TEXT_ID, *encode("Hi there").ids)
    assert encode("", bos=True).ids == (END_OF_TEXT_ID,)
    assert encode("", bos=True).strings == ("<|endoftext|>",)
    assert encode("").ids == ()
    assert encode("").text == ""


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(TokenizerDataError, match=r"vocab\.bpe cannot be read: install gptviz again"):
        Tokenizer(tmp_path / "vocab.bpe")


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"\n", lambda _: b""])
def test_a_damaged_file_is_one_clear_error(tmp_path, damage):
    copy = tmp_path / "vocab.bpe"
    copy.write_bytes(damage(VOCAB_BPE.read_bytes()))
    with pytest.raises(TokenizerDataError, match=r"vocab\.bpe is damaged: install gptviz again"):
        Tokenizer(copy)


@pytest.fixture(scope="module")
def transformers_tokenizer():
    """transformers' own tokenizer, from the same merges; encoder.json follows from them, in OpenAI's byte order."""
    transformers = pytest.importorskip("transformers")
    merges = [tuple(line.split(" ")) for line in VOCAB_BPE.read_text(encoding="utf-8").split("\n")[1:-1]]
    visible = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    alphabet = visible + [chr(256 + i) for i in range(256 - len(visible))]
    names = [*alphabet, *(left + right for left, right in merges), "<|endoftext|>"]
    return transformers.GPT2Tokenizer(vocab={name: id for id, name in enumerate(names)}, merges=merges)


@pytest.mark.oracle
def test_transformers_gives_the_same_ids_for_2000_texts(transformers_tokenizer):
    n_texts = 0

    @settings(deadline=None, max_examples=2000, database=None)
    @given(TEXT_LIKE)
    def same_ids(text):
        nonlocal n_texts
        n_texts += 1
        # transformers treats a typed special token as special by default, while ours must be asked to.
        expected = transformers_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(encode(text, special=True).ids) == expected, text

    same_ids()
    assert n_texts >= 2000


@pytest.mark.oracle
def test_transformers_gives_the_same_ids_for_the_cards_sentences(transformers_tokenizer):
    card = (VOCAB_BPE.parents[1] / "story-gpt" / "card.md").read_text(encoding="utf-8")
    for sentence in re.split(r"(?<=[.|]) ", card):
        expected = transformers_tokenizer(sentence, add_special_tokens=False)["input_ids"]
        assert list(encode(sentence, special=True).ids) == expected


@pytest.mark.parametrize("ids", [[262, 198], np.array([262, 198])])
def test_strings_are_those_shown_elsewhere(ids):
    assert strings_of(ids) == ("␣the", "↵")
