"""Text from a file, made fit for a sentence: it may be a megabyte long or contain characters that break a line."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 1
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxdict = _SHORT.maxset = _SHORT.maxtuple = 3


def quoted(value: object) -> str:
    """Return a value as Python writes it, cut to a few dozen characters."""
    return _SHORT.repr(value)


def named(name: str) -> str:
    """Return a name cut to 78 characters, with line breaks and unprintable characters escaped."""
    return _SHORT.repr(str(name))[1:-1]
