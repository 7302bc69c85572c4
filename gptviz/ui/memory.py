"""The app's memory: how much values take, and how the process returns what it no longer needs."""

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

_ARRAY_BYTES = 400  # NumPy's overhead for an array, including torch's if torch made it
# pandas' overhead for a table, and for each of its columns.
_TABLE_BYTES, _COLUMN_BYTES = 2_000, 2_300
_TRIM_EVERY = 10.0  # seconds: other threads wait for the heap during a trim
_trimmed = [0.0]  # the time of the last trim, by the monotonic clock
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


@cache
def tune() -> None:
    """Keep the process small. The first call does this for good; later calls do nothing.

    Python looks for garbage when the objects that it holds have grown by a quarter. The objects that the libraries made
    at their start no longer count after this call, so Python looks sooner, and is done sooner.

    Every run of a page is a new thread. If each thread had its own arena of glibc's heap, the next thread could not use
    the memory that it frees; and an array in the heap keeps the process from returning the memory that was freed below
    it. So there are few arenas, and arrays lie outside the heap.
    """
    gc.freeze()
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(_M_ARENA_MAX, 2)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)


def trim() -> None:
    """Return the free memory in glibc's heap to the system now and then. Call this as often as you like."""
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
    """Return the memory of a value and of everything that it holds, in bytes; for a view, that of the whole array.

    An object with a bound of its own, such as a trace, counts as its `max_bytes`. Objects that may be shared, such as
    short strings, count in full. Raises `TypeError` for a type of unknown size, which would otherwise count as nothing.
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
    if hasattr(owner.base, "untyped_storage"):  # the whole tensor's memory; the array may be a part of it
        return int(owner.base.untyped_storage().nbytes())
    return int(owner.nbytes)
