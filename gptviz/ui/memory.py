"""The app's memory: what values take, and how the process gives back what it no longer needs."""

import ctypes
import dataclasses
import gc
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

_ARRAY_BYTES = 400  # what NumPy keeps beside the numbers, and torch where it made them
# What pandas keeps beside the cells: of a table, and of each of its columns.
_TABLE_BYTES, _COLUMN_BYTES = 2_000, 2_300
_TRIM_EVERY = 10.0  # seconds: it takes some milliseconds, and others wait for the heap meanwhile
_trimmed = [0.0]  # when, by the clock that only goes on
# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


@cache
def tune() -> None:
    """Keep the process small, once and for all.

    Python looks for garbage when a quarter has been added to what it holds: as what the libraries made at their start
    is left out from now on, it looks sooner, and is done sooner.

    Every run of a page is a new thread. With an arena of glibc's heap for each, what one thread frees does not serve
    the next; and an array that lies in the heap keeps what was freed below it. So arenas are few, and arrays outside.
    """
    gc.freeze()
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(_M_ARENA_MAX, 2)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)


def trim() -> None:
    """Give back to the system what is free in glibc's heap, now and then: call as often as you like."""
    libc = _glibc()
    if libc is not None and time.monotonic() - _trimmed[0] > _TRIM_EVERY:
        _trimmed[0] = time.monotonic()
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def n_bytes(value: object) -> int:
    """The memory of a value and of all that it holds; of a view, that of the whole array.

    What bounds itself, as a trace does, counts as its `max_bytes`. What others may share, as short strings, counts in
    full. Raises `TypeError` for a type whose memory is not known: it would else count as nothing.
    """
    match value:
        case np.ndarray():
            return _ARRAY_BYTES + _array_bytes(value)
        case pd.DataFrame():
            cells = int(value.memory_usage(deep=True).sum())
            return _TABLE_BYTES + _COLUMN_BYTES * value.shape[1] + cells
        case None | bool() | int() | float() | str() | bytes() | np.generic():
            return sys.getsizeof(value)
        case tuple() | list():
            parts = list(value)
        case Mapping():
            parts = [*value.keys(), *value.values()]
        case _ if isinstance(getattr(value, "max_bytes", None), int):
            return int(value.max_bytes)  # type: ignore[attr-defined]
        case _ if dataclasses.is_dataclass(value):
            parts = [getattr(value, part.name) for part in dataclasses.fields(value)]
        case _:
            name = type(value).__name__
            raise TypeError(f"The memory that a {name} takes is not known: teach gptviz.ui.memory.n_bytes.")
    return sys.getsizeof(value) + sum(map(n_bytes, parts))


def _array_bytes(array: np.ndarray[Any, Any]) -> int:
    if array.dtype.hasobject:
        raise TypeError("The memory that an array of Python objects takes is not known: keep numbers or strings.")
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if hasattr(owner.base, "untyped_storage"):  # a tensor's memory, of which the array may be a part
        return int(owner.base.untyped_storage().nbytes())
    return int(owner.nbytes)
