"""What visits leave, held within bounds: uploads and pictures on the disk, copies of components and holes in memory.

On the disk in place of gradio's `delete_cache`, which knows no size, leaves folders, and ends for good where a file
comes while it looks through them.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import gradio as gr

MOST = 2_000_000_000  # bytes of the disk for uploads and pictures together
OLDEST = 3600.0  # seconds since a file was last used
EVERY = 2.0  # seconds between two looks
HOLES = 15  # looks until free memory is given back: what a run needs again costs it some milliseconds
STALLED = 60.0  # seconds without a byte after which an upload counts as cut off
FOLDER = 4096  # bytes that the folder of each file takes


def trim(page: gr.Blocks, most: int, oldest: float) -> int:
    """Deletes a page's files not used for `oldest` seconds, then those not used for longest until the others take at
    most `most` bytes of the disk; gives the bytes freed. What gradio keeps for its components stays and does not
    count; uploads that were cut off, which it forgets, do."""
    stays: set[str] = set().union(*(getattr(block, "keep_in_cache", ()) for block in page.blocks.values()))
    found: list[tuple[float, int, str]] = []
    known: set[str] = set().union(*(files.copy() for files in page.temp_file_sets))
    for path in known.union(_cut_off(page.GRADIO_CACHE)) - stays:
        with suppress(OSError):  # deleted since
            held = os.lstat(path)
            found.append((held.st_ctime, held.st_blocks * 512 + FOLDER, path))
    over, freed, now = sum(size for _, size, _ in found) - most, 0, time.time()
    for used, size, path in sorted(found):
        if freed >= over and now - used < oldest:
            break
        with suppress(OSError):  # deleted since, or something else lies in its folder
            os.remove(path)
            if path in known:
                os.rmdir(os.path.dirname(path))
        for files in page.temp_file_sets:
            files.discard(path)
        freed += size
    return freed


def _cut_off(folder: str) -> list[str]:
    """Uploads to `folder` that broke off: files by their first name (see gradio's NamedTemporaryFile) that have not
    grown for a while."""
    with suppress(OSError), os.scandir(folder) as entries:  # there is no folder before the first upload
        return [
            entry.path for entry in entries
            if entry.name.startswith(tempfile.gettempprefix()) and entry.is_file(follow_symlinks=False)
            and time.time() - entry.stat().st_mtime > STALLED
        ]  # fmt: skip
    return []


def prune(page: gr.Blocks) -> None:
    """Drops the copies of components that pile up in each visit. Gradio (6.31) makes one of every output that an event
    leaves as it is, and keeps the next value it gets under the copy's own number, where nobody looks: more than half a
    megabyte for each picture. To be called on the loop that handles events, so that it comes between two of them."""
    for state in list(page.app.state_holder.session_data.values()):
        for held in (state.blocks_config.blocks, state.config_values):
            for number in held.keys() - page.blocks.keys():
                del held[number]


def give_back() -> None:
    """Gives free memory back to the system: small things that visits keep lie all over what steps have freed, and
    glibc by itself gives back the ends alone. Does nothing with another C library."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def bounded(page: gr.Blocks) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for the page's app, in which its files are held within MOST bytes and OLDEST seconds, visits are
    pruned and free memory is given back."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async def look() -> None:
            for looks in itertools.count(1):
                await asyncio.sleep(EVERY)
                prune(page)
                await asyncio.to_thread(trim, page, MOST, OLDEST)
                if looks % HOLES == 0:
                    await asyncio.to_thread(give_back)

        task = asyncio.create_task(look())
        yield
        task.cancel()

    return lifespan
