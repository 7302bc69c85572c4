"""A thread-safe cache that is bounded in bytes and computes each value only once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """A cache that drops the least recently used values once the total size exceeds `max_bytes`.

    Threads that ask for the same missing key at the same time share one computation. If it
    raises an `Exception`, all of them raise it, and nothing is stored. If it is interrupted by
    another `BaseException`, only its own thread raises, and a waiting thread starts it again.
    Values must not be None.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Any, Value], int]) -> None:
        """`size_of(key, value)` returns the size of both together, in bytes."""
        self.max_bytes = max_bytes
        self._size_of = size_of
        self._held: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()  # value and size; most recently used last
        self._being_made: dict[Hashable, Future[Value]] = {}
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """The number of bytes held now."""
        with self._lock:
            return self._size

    def clear(self) -> None:
        """Forget all values. Values that are being computed now are still stored when they are ready."""
        with self._lock:
            self._held.clear()
            self._size = 0

    def peek(self, key: Hashable) -> Value | None:
        """Return the value under `key`, or None if there is none now. This counts as a use."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def get(
        self,
        key: Hashable,
        make: Callable[[], Value],
        wait: Callable[["Future[Value]"], object] = lambda future: future.exception(),
    ) -> Value:
        """Return the value under `key`, computing it with `make` if it is missing.

        If another thread is computing it, `wait` is called with that thread's future and must return when it is done.
        """
        while True:
            with self._lock:
                if key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key][0]
                others = self._being_made.get(key)
                if others is None:
                    mine = self._being_made[key] = Future()
            if others is None:
                return self._make(key, mine, make)
            with suppress(CancelledError):
                wait(others)
            if not others.cancelled():
                return others.result()

    def _make(self, key: Hashable, future: "Future[Value]", make: Callable[[], Value]) -> Value:
        try:
            value = make()
            size = self._size_of(key, value)
        except BaseException as error:
            with self._lock:
                del self._being_made[key]
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
            raise
        with self._lock:
            del self._being_made[key]
            if size <= self.max_bytes:
                self._held[key] = value, size
                self._size += size
            while self._size > self.max_bytes:
                _, (_, freed) = self._held.popitem(last=False)
                self._size -= freed
        future.set_result(value)
        return value
