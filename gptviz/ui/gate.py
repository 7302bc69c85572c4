"""A gate for what takes long: so many computations at once, the others one after another as they came."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, local

_TELL_EVERY = 0.3  # seconds


class BusyError(RuntimeError):
    """As many computations wait already as may."""


class Gate:
    """Lets `at_once` threads compute and `most_waiting` wait. A thread that is inside may enter again."""

    def __init__(self, at_once: int, most_waiting: int) -> None:
        self._at_once = at_once
        self._most = at_once + most_waiting
        self._line: list[object] = []  # one ticket a thread; the first `at_once` are inside
        self._changed = Condition()
        self._thread = local()

    @contextmanager
    def turn(self, tell: Callable[[int], None]) -> Iterator[None]:
        """Wait for a turn, and hold it while inside. While it waits, `tell` hears now and then how many are before it.

        Raises `BusyError` where too many wait. What `tell` raises ends the waiting.
        """
        if getattr(self._thread, "inside", False):
            yield
            return
        ticket = object()
        with self._changed:
            if len(self._line) >= self._most:
                raise BusyError
            self._line.append(ticket)
        try:
            self._wait(ticket, tell)
            self._thread.inside = True
            yield
        finally:
            self._thread.inside = False
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: object, tell: Callable[[int], None]) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._line.index(ticket) < self._at_once, timeout=_TELL_EVERY):
                    return
                n_before = self._line.index(ticket)
            tell(n_before)
