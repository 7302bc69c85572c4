import numpy as np
import pytest

from gptviz.numerics.chunks import chunks


@pytest.mark.parametrize(
    ("stop", "size", "start"), [(10, 3, 0), (9, 3, 0), (10, 3, 4), (2, 5, 0), (4, 0, 0), (3, -1, 1)]
)
def test_pieces_are_the_whole_in_order(stop, size, start):
    pieces = [np.arange(stop)[some].tolist() for some in chunks(stop, size, start=start)]
    assert [number for piece in pieces for number in piece] == list(range(start, stop))
    assert all(len(piece) == max(1, size) for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= max(1, size)


def test_nothing_has_no_pieces():
    assert list(chunks(0, 5)) == []
    assert list(chunks(3, 5, start=3)) == []


def test_a_piece_knows_where_it_ends():
    assert [(some.start, some.stop) for some in chunks(5, 2)] == [(0, 2), (2, 4), (4, 5)]
