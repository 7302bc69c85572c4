"""A cache that is bounded in bytes and computes each value once, whoever asks."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Least recently used values go first once their sizes sum to more than `max_bytes`.

    Threads that ask for the same missing key at once wait for one computation. A failed
    computation raises in all of them and leaves nothing behind. One that is given up (what it
    raises is no `Exception`) raises in its own thread alone, and another thread begins anew.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self._size_of = size_of
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        with self._lock:
            return sum(self._sizes.values())

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._sizes

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under `key`, made by `make` if it is not there."""
        while True:
            with self._lock:
                future = self._futures.get(key)
                is_new = future is None
                if future is None:
                    future = self._futures[key] = Future()
                self._futures.move_to_end(key)
            if is_new:
                self._fill(key, future, make)
            try:
                return future.result()
            except CancelledError:
                if not future.cancelled():
                    raise

    def _fill(self, key: Hashable, future: "Future[Value]", make: Callable[[], Value]) -> None:
        try:
            value = make()
            size = self._size_of(value)
        except BaseException as error:
            with self._lock:
                del self._futures[key]
            if not isinstance(error, Exception):
                future.cancel()
                raise
            future.set_exception(error)
            return
        future.set_result(value)
        with self._lock:
            if size > self.max_bytes:
                del self._futures[key]
                return
            self._sizes[key] = size
            self._evict()

    def _evict(self) -> None:
        for key in list(self._futures):
            if sum(self._sizes.values()) <= self.max_bytes:
                return
            if key in self._sizes:  # not one that is still being made
                del self._futures[key], self._sizes[key]
