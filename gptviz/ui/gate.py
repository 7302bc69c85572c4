"""A gate for long computations: a limited number run at once; the others wait, cheap ones before expensive ones."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from threading import Event, Lock, local

_TELL_EVERY = 0.3  # seconds


class BusyError(RuntimeError):
    """The largest allowed number of computations is already waiting."""


@dataclass(eq=False)
class _Ticket:
    """A computation that waits for a turn, or has one."""

    session: Hashable
    dear: bool
    size: int
    tell: Callable[[int], None]
    inside: Event = field(default_factory=Event)


class Gate:
    """Let `at_once` sessions compute, one computation each, while up to `most_waiting` others wait.

    Cheap computations (a first view) go before expensive ones (an experiment). If there are two or more places,
    expensive computations also leave one free for cheap ones. Among cheap computations the smallest goes first; equal
    ones, and expensive ones, go in order of arrival.
    """

    def __init__(self, at_once: int, most_waiting: int) -> None:
        self._at_once = at_once
        self._most_dear = max(1, at_once - 1)
        self._most_waiting = most_waiting  # cheap computations, and as many expensive ones
        self._line: list[_Ticket] = []  # in order of arrival, including those inside
        self._lock = Lock()
        self._thread = local()  # holds each thread's `ticket` while it is in a turn

    @contextmanager
    def turn(
        self, session: Hashable, tell: Callable[[int], None], *, dear: bool = False, size: int = 0
    ) -> Iterator[None]:
        """Wait for a turn, and hold it while inside. A turn within a turn is part of the outer one.

        During a wait, `tell` is called regularly with the number of computations ahead, and at the end with 0. An
        exception from `tell` ends the wait. Raises `BusyError` if too many computations wait.
        """
        if self._ticket is not None:
            yield
            return
        ticket = self._thread.ticket = _Ticket(session, dear, size, tell)
        try:
            self._enter(ticket, self._most_waiting)
            yield
        finally:
            self._thread.ticket = None
            self._leave(ticket)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Give up the turn for the length of this block, then wait for a new one.

        Without a turn, this does nothing. An exception in the block ends the turn.
        """
        ticket = self._ticket
        if ticket is None:
            yield
            return
        self._leave(ticket)
        yield
        self._enter(ticket)

    @property
    def _ticket(self) -> _Ticket | None:
        return getattr(self._thread, "ticket", None)

    def _enter(self, ticket: _Ticket, most_waiting: float = inf) -> None:
        with self._lock:
            n_waiting = sum(other.dear == ticket.dear and other.session != ticket.session for other in self._waiting())
            self._line.append(ticket)
            self._admit()
            if n_waiting >= most_waiting and not ticket.inside.is_set():
                raise BusyError
        told = False
        while not ticket.inside.wait(_TELL_EVERY):
            told = True
            ticket.tell(self._n_ahead(ticket))
        if told:
            ticket.tell(0)

    def _leave(self, ticket: _Ticket) -> None:
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
            ticket.inside.clear()
            self._admit()

    def _waiting(self) -> list[_Ticket]:
        """Return the waiting tickets in turn order, only the latest of each session: Streamlit ends the others."""
        latest = {ticket.session: ticket for ticket in self._line if not ticket.inside.is_set()}
        return sorted(latest.values(), key=lambda ticket: (ticket.dear, 0 if ticket.dear else ticket.size))

    def _inside(self) -> list[_Ticket]:
        return [ticket for ticket in self._line if ticket.inside.is_set()]

    def _admit(self) -> None:
        for ticket in self._waiting():
            inside = self._inside()
            if len(inside) >= self._at_once:
                return
            is_room = not ticket.dear or sum(other.dear for other in inside) < self._most_dear
            if is_room and all(other.session != ticket.session for other in inside):
                ticket.inside.set()

    def _n_ahead(self, ticket: _Ticket) -> int:
        with self._lock:
            waiting = self._waiting()
            return len(self._inside()) + (waiting.index(ticket) if ticket in waiting else 0)
