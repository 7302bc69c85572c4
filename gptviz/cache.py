"""A cache that is bounded in bytes and computes each value once, whoever asks."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Least recently used values go first once their sizes sum to more than `max_bytes`.

    Threads that ask for the same missing key at once wait for one computation. A failed
    computation raises in all of them and leaves nothing behind. One that is given up (what it
    raises is no `Exception`) raises in its own thread alone, and another thread begins anew.
    No value is None.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Any, Value], int]) -> None:
        """`size_of(key, value)` is what the two take, in bytes."""
        self.max_bytes = max_bytes
        self._size_of = size_of
        self._held: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()  # with the size; the latest used is last
        self._being_made: dict[Hashable, Future[Value]] = {}
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        with self._lock:
            return self._size

    def clear(self) -> None:
        """Forget all values; those being made are kept once they are there."""
        with self._lock:
            self._held.clear()
            self._size = 0

    def peek(self, key: Hashable) -> Value | None:
        """The value under `key`, or None where there is none now. It counts as a use."""
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
        """The value under `key`, made by `make` if it is not there.

        Where another thread is making it, `wait` is called with its future, and returns when that is done.
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
