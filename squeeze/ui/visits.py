"""What is remembered of each visitor while the page is open: runs to branch from, references, thumbnails.

Everything is bounded, by number and by bytes for each visitor and in all, the least recently used going first. A run
grows while it is drawn and is counted at the next change; the device draws one at a time, so the bounds are passed by
one run at most.
Nothing here is on disk, and nobody gets at another's: a visitor is known by the session of one open page (one tab,
until it is reloaded).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from ..images import content_hash
from ..request import Request
from .views import jpeg_uri

REMEMBERED = 24  # recipes of a visitor's history, and thumbnails beside them
RUNS = 8  # of a visitor; the page shows the newest, and a page that lags behind may ask for one before
PER_VISITOR = 24_000_000  # bytes beside the newest run, which takes 31 million for 25 steps at 1024 px, 0.6 at 128
IN_ALL = 512_000_000  # bytes
THUMBNAIL = 128  # pixels on the long side


@dataclass(kw_only=True)
class Run:
    """One run as far as it got. `counts` are the whole steps of each stage; `latents` (1, N, 4 C) and `frames` (data
    URIs) hold one entry per step done; `picture` is the finished picture."""

    id: str
    request: Request
    counts: tuple[int, int, int]
    latents: list[Tensor] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    picture: Image.Image | None = None

    @property
    def size(self) -> int:
        """Bytes, near enough; the references belong to the visit."""
        latents = sum(latent.numel() * latent.element_size() for latent in self.latents)
        return latents + sum(map(len, self.frames)) + (_bytes(self.picture) if self.picture else 0)


class Visit:
    """One visitor's runs and references, by id and by content hash, the oldest first; thumbnails by the hash of their
    picture; the latest finished `picture`; when it was last `used`."""

    def __init__(self) -> None:
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.references: OrderedDict[str, Image.Image] = OrderedDict()
        self.thumbnails: OrderedDict[str, str] = OrderedDict()
        self.picture: Image.Image | None = None
        self.used = time.monotonic()

    @property
    def size(self) -> int:
        """Bytes, near enough."""
        runs = self.runs.values()
        apart = self.picture is not None and all(run.picture is not self.picture for run in runs)
        pictures = [*self.references.values(), *([self.picture] if apart else [])]
        kept = sum(run.size for run in runs) + sum(map(_bytes, pictures))
        return kept + sum(map(len, self.thumbnails.values()))

    def shrink(self, most: int) -> None:
        """Forgets what is oldest until `most` bytes are left beside the newest run that has steps, whose film the page
        shows. That one stays, what was begun after it, and the newest one's references."""
        runs = list(reversed(self.runs.values()))
        shown = next((number for number, run in enumerate(runs) if run.latents), 0)
        most += runs[shown].size if runs else 0
        needed = len({id(picture) for picture in runs[0].request.references}) if runs else 0
        while len(self.runs) > RUNS or (self.size > most and len(self.runs) > shown + 1):
            self.runs.popitem(last=False)
        while self.size > most and len(self.references) > needed:
            self.references.popitem(last=False)
        while len(self.thumbnails) > REMEMBERED:
            self.thumbnails.popitem(last=False)


class Visits:
    """All visitors of one server. Every method may be called from any thread."""

    def __init__(self, per_visitor: int = PER_VISITOR, in_all: int = IN_ALL) -> None:
        self._per_visitor, self._in_all = per_visitor, in_all
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, session: str, request: Request, counts: tuple[int, int, int], trunk: Run | None, step: int) -> Run:
        """A new run of a visitor, with the first `step` steps of `trunk` where it branches from one."""
        digests = [content_hash(picture) for picture in request.references]
        with self._lock:
            visit = self._visits.setdefault(session, Visit())
            # every upload is opened anew: runs share one copy, or each would hold megabytes that nobody counts
            shared = [
                visit.references.setdefault(digest, picture)
                for digest, picture in zip(digests, request.references, strict=True)
            ]
            for digest in digests:
                visit.references.move_to_end(digest)
            run = Run(
                id=secrets.token_urlsafe(9), request=replace(request, references=tuple(shared)), counts=counts,
                latents=trunk.latents[:step] if trunk else [], frames=trunk.frames[:step] if trunk else [],
            )  # fmt: skip
            visit.runs[run.id] = run
            self._bound(session, visit)
        return run

    def finish(self, session: str, run: Run, picture: Image.Image, digest: str) -> None:
        """Keeps a finished run's picture and a thumbnail of it; `digest` is the picture's content hash."""
        run.picture, thumbnail = picture, jpeg_uri(picture, THUMBNAIL)
        with self._lock:
            if visit := self._visits.get(session):  # else the visitor has left while it was drawn
                visit.picture, visit.thumbnails[digest] = picture, thumbnail
                visit.thumbnails.move_to_end(digest)
                self._bound(session, visit)

    def settle(self, session: str, run: Run, step: int = 0) -> None:
        """Forgets a run that has ended before a step of its own, where `step` are its trunk's: the page still shows the
        one before."""
        with self._lock:
            if (visit := self._visits.get(session)) and len(run.latents) <= step and run.picture is None:
                visit.runs.pop(run.id, None)

    def run(self, session: str, name: str) -> Run | None:
        """A run by its id, if this visitor has it still."""
        with self._lock:
            visit = self._find(session)
            return visit.runs.get(name) if visit else None

    def newest(self, session: str) -> Run | None:
        """The visitor's latest run."""
        with self._lock:
            visit = self._find(session)
            return next(reversed(visit.runs.values()), None) if visit else None

    def newest_picture(self, session: str) -> Image.Image | None:
        """The visitor's latest finished picture."""
        with self._lock:
            visit = self._find(session)
            return visit.picture if visit else None

    def reference(self, session: str, digest: str) -> Image.Image | None:
        """A reference this visitor has used, by its content hash."""
        with self._lock:
            visit = self._find(session)
            return visit.references.get(digest) if visit else None

    def thumbnails(self, session: str) -> dict[str, str]:
        """Thumbnails (data URIs) of this visitor's pictures by their content hash."""
        with self._lock:
            visit = self._find(session)
            return dict(visit.thumbnails) if visit else {}

    def leave(self, session: str, unused: float = 0) -> float:
        """Forgets a visitor who was not here for `unused` seconds; gives how many of them are left."""
        with self._lock:
            visit = self._visits.get(session)
            left = unused - (time.monotonic() - visit.used) if visit else 0
            if left <= 0:
                self._visits.pop(session, None)
            return max(0, left)

    def _find(self, session: str) -> Visit | None:
        """The visit of somebody who is here, with the lock held."""
        if visit := self._visits.get(session):
            visit.used = time.monotonic()
            self._visits.move_to_end(session)
        return visit

    def _bound(self, session: str, visit: Visit) -> None:
        """After a change of a visit, with the lock held."""
        self._find(session)
        visit.shrink(self._per_visitor)
        while len(self._visits) > 1 and sum(one.size for one in self._visits.values()) > self._in_all:
            self._visits.popitem(last=False)


def _bytes(picture: Image.Image) -> int:
    return 3 * picture.width * picture.height
