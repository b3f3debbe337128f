"""Whose turn it is at the device: first come, first served, a bounded number at a time, one place for each visitor.

Gradio's own queue gives a place away before the run that left it has ended, knows no time left before a first run has
finished, and says in its own words that it is full.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from . import texts

ROOM = 20  # runs that may wait; the next one is told that the line is full
LOOK = 1.0  # seconds: a run that waits comes back so often, and gradio can end it if its tab was closed
REMEMBERED = 100  # forwards whose time says how long the next will take


class LineError(RuntimeError):
    """There is no place in the line; the message is a sentence with the remedy."""


@dataclass(kw_only=True, eq=False)
class Place:
    """A run in the line; `left` are the forwards of the transformer that it has still to do."""

    session: str
    left: int


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What is before a waiting run: its `place`, 1 = next, and the `seconds` until its turn, None where no forward has
    been timed yet."""

    place: int
    seconds: float | None


class Line:
    """The line at one device; whoever stands first has it. Every method may be called from any thread."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._places: list[Place] = []
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._changed, self._changes = threading.Condition(), 0

    @property
    def busy(self) -> bool:
        """Whether anyone has the device."""
        return bool(self._places)

    def enter(self, session: str, forwards: int) -> Place:
        """A place at the end of the line, to be given back with `leave`; raises LineError where there is none."""
        with self._changed:
            waiting = self._places[1:]
            if any(place.session == session for place in waiting):
                raise LineError(texts.WAITS_ALREADY)
            if self._places and len(waiting) >= self._room:
                raise LineError(texts.FULL.format(room=self._room))
            place = Place(session=session, left=forwards)
            self._places.append(place)
        return place

    def wait(self, place: Place) -> Iterator[Ahead]:
        """Ends when it is the turn of `place`. Until then it yields what is ahead: whenever that or something else
        changes, and every LOOK seconds."""
        while True:
            with self._changed:
                index, seen = self._places.index(place), self._changes
                if index == 0:
                    return
                forwards = sum(one.left for one in self._places[:index])
                pace = statistics.median(self._times) if self._times else None
            yield Ahead(place=index, seconds=None if pace is None else forwards * pace)
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._changes != seen, LOOK)

    def stepped(self, place: Place, forwards: int, seconds: float) -> None:
        """The run at the device has done some forwards in so many seconds."""
        with self._changed:
            place.left -= forwards
            self._times.append(seconds / forwards)

    def leave(self, place: Place) -> None:
        """Gives a place back, whether its turn had come or not."""
        with self._changed:
            self._places = [one for one in self._places if one is not place]
        self.wake()

    def wake(self) -> None:
        """Every run that waits looks around at once."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()
