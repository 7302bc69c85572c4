"""What a file says of itself, in a sentence: it may be a megabyte long, or hold signs that break a line."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 1
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxdict = _SHORT.maxset = _SHORT.maxtuple = 3


def quoted(value: object) -> str:
    """A value as Python writes it, cut to a few dozen signs."""
    return _SHORT.repr(value)


def named(name: str) -> str:
    """A name as it is, cut to 78 signs; line breaks and signs that cannot be printed are escaped."""
    return _SHORT.repr(str(name))[1:-1]
