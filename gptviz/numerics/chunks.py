"""Long work in pieces, so that what is held at once stays small."""

from collections.abc import Iterator


def chunks(stop: int, size: int, *, start: int = 0) -> Iterator[slice]:
    """Slices that cut range(start, stop) into pieces of `size`, or of 1 where that is less; the last may be shorter."""
    size = max(1, size)
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))
