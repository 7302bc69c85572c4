"""Split long work into pieces, so that little is held in memory at once."""

from collections.abc import Iterator


def chunks(stop: int, size: int, *, start: int = 0) -> Iterator[slice]:
    """Return slices that cut range(start, stop) into pieces of `size` (at least 1); the last may be shorter."""
    size = max(1, size)
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))
