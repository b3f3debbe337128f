"""A cache of what was read of pictures and prompts, keyed by content, bounded in bytes, shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
LIMIT = 64 * 2**20  # bytes: ten long prompts at the paper's size, with their references


class Encodings:
    """The values of the latest keys, dataclasses of tensors that nobody changes, up to `limit` bytes in all."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()  # held for the look-up alone: who computes keeps nobody waiting
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """What the kept values take."""
        with self._lock:
            return self._bytes

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The kept value of a key, else what `make` gives, kept from now on. The key must name everything that the
        value depends on."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        size = _nbytes(value)
        with self._lock:
            self._drop(key)
            if size <= self.limit:
                self._kept[key] = (value, size)
                self._bytes += size
            while self._bytes > self.limit:
                self._drop(next(iter(self._kept)))
        return value

    def clear(self) -> None:
        """Keeps nothing of what was kept."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key, (None, 0))[1]


def _nbytes(value: Any) -> int:
    parts = (getattr(value, field.name) for field in fields(value))
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))
