"""What a chart says, in words: every number and name by value."""

import numpy as np
import pandas as pd
import pytest

from gptviz.tokens import display
from gptviz.ui import descriptions

NAN = np.nan


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (" dog", "␣dog"),
        (",", "a comma"),
        (' "', "a space and a quotation mark"),
        ("'", "an apostrophe"),
        ("\n\n", "a line break and a line break"),
        ("\x00", "<U+0000>"),
        ("\u202e", "<U+202E>"),
        ("...", "..."),
        ("don't", "don't"),
        ("<b>", "<b>"),
        ("", ""),
        ("x" * 18, "x" * 18),
        ("x" * 19, "x" * 17 + "…"),
    ],
)
def test_a_token_is_said_in_words_if_it_is_punctuation_and_cut_if_it_is_long(raw, said):
    assert descriptions.token(display(raw.encode())) == said


def test_a_position_tells_equal_tokens_apart():
    assert descriptions.placed(["a", ",", "a"], 7) == ["a (position 7)", "a comma (position 8)", "a (position 9)"]
    assert descriptions.placed([]) == []


def test_heads_are_named_in_the_order_of_a_raveled_array():
    names = np.array(descriptions.heads(2, 3)).reshape(2, 3)
    assert names[1, 2] == "L1H2"
    assert names[0, 1] == "L0H1"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (-0.0, "0"),
        (7, "7"),
        (99.94, "99.9"),
        (1234.5, "1,234"),
        (-50257, "−50,257"),
        (0.0000123, "1.23e-05"),
    ],
)
def test_a_number_has_three_digits_and_a_minus_that_is_read(value, said):
    assert descriptions.number(value) == said


def test_a_share_is_written_as_on_the_charts():
    assert descriptions.percent(1 / 3) == "33.3%"
    assert descriptions.percent(0) == "0.0%"


def test_a_list_names_three_and_counts_the_rest():
    assert descriptions.listed(["a", "b", "c"]) == "a, b, c"
    assert descriptions.listed(["a", "b", "c", "d"]) == "a, b, c, and 1 more"
    assert descriptions.listed([str(number) for number in range(2003)]) == "0, 1, 2, and 2,000 more"
    assert descriptions.listed([]) == "none"


def test_values_keep_their_order_and_those_that_are_missing_are_left_out():
    assert descriptions.valued("abc", [1, NAN, 3]) == ["a 1", "c 3"]
    assert descriptions.valued([], []) == []


def test_the_largest_are_sorted_and_the_earlier_of_equals_comes_first():
    assert descriptions.largest("abcdef", [1, 3, NAN, 3, np.inf, 2]) == "b 3, d 3, f 2"
    assert descriptions.largest("ab", [-1, -2], most=1) == "a −1"
    assert descriptions.largest("ab", [NAN, NAN]) == "no numbers"
    assert descriptions.largest([], []) == "no numbers"


def test_both_ends_are_named():
    assert descriptions.extremes("abc", [1, -2, NAN]) == "highest 1 for a, lowest −2 for b"
    assert descriptions.extremes("abc", [5, 1, 5]) == "highest 5 for a, lowest 1 for b"
    assert descriptions.extremes("ab", [1, 1]) == "1 everywhere"
    assert descriptions.extremes("ab", [NAN, 1]) == "1 for b"
    assert descriptions.extremes("a", [NAN]) == "no numbers"
    assert descriptions.extremes([], []) == "no numbers"


def test_a_cell_is_named_by_its_row_and_column():
    values = np.array([[1, 2, NAN], [3, -4, np.inf]])
    assert descriptions.largest_cell(values, ["r0", "r1"], ["c0", "c1", "c2"]) == "3 for r1, c0"
    assert descriptions.extreme_cells(values, ["r0", "r1"], ["c0", "c1", "c2"]) == (
        "highest 3 for r1, c0, lowest −4 for r1, c1"
    )
    assert descriptions.largest_cell(np.full((2, 1), NAN), ["r0", "r1"], ["c0"]) == "no numbers"


def test_the_future_is_left_out():
    values = np.arange(1.0, 10).reshape(3, 3)
    np.testing.assert_array_equal(descriptions.past(values), [[1, NAN, NAN], [4, 5, NAN], [7, 8, 9]])
    np.testing.assert_array_equal(
        descriptions.past(values, itself=False), [[NAN, NAN, NAN], [4, NAN, NAN], [7, 8, NAN]]
    )


def test_the_largest_weight_is_not_the_first_tokens_own():
    weights = np.array([[1, 9, 9], [0.25, 0.75, 9], [0.5, 0.2, 0.3]])
    cell = "0.75 for query b (position 1), key b (position 1)"
    assert descriptions.largest_weight(weights, "abc") == f"largest below the first row {cell}"
    assert descriptions.largest_weight(weights, "abc", 5) == "largest 1 for query a (position 5), key a (position 5)"
    assert descriptions.largest_weight(weights[:1, :1], "a") == "largest 1 for query a (position 0), key a (position 0)"


def test_two_predictions_are_told_token_by_token():
    table = pd.DataFrame({"token": [" a", ","], "first": [0.5, 0.25], "second": [0.125, 0.001]})
    assert descriptions.changes(table, "before", "after") == (
        " a 50.0% before and 12.5% after, a comma 25.0% before and 0.1% after"
    )


def test_a_spread_has_its_own_value_and_the_ends_of_the_runs():
    own, runs = np.array([0.1, 0.4]), np.array([[0.2, 0.3], [0.0, 0.9]])
    assert descriptions.spreads("ab", own, runs, descriptions.percent) == (
        "b 40.0% (30.0% to 90.0% in the runs), a 10.0% (0.0% to 20.0% in the runs)"
    )


def test_a_line_has_two_ends():
    assert descriptions.ends([NAN, 1, 5, 2]) == "from 1 to 2"
    assert descriptions.ends([]) == "no numbers"
    assert descriptions.courses({"a": [1, 2], "b": [3]}) == "a from 1 to 2; b from 3 to 3"
    assert descriptions.courses({name: [1] for name in "abcd"}, most=1) == "a from 1 to 1; and 3 more"


def test_a_lens_is_told_at_its_first_and_last_depth():
    course = descriptions.lens_course(np.array([" a", "x", ","]), np.array([0.1, 0.2, 0.9]), ["start", "middle", "end"])
    assert course == " a 10.0% at start, a comma 90.0% at end"
