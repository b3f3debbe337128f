"""What visits leave on the disk, uploads and pictures, held within a bound; gradio deletes by age alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import gradio as gr

MOST = 2_000_000_000  # bytes of uploads and pictures together
EVERY = 2.0  # seconds between two looks


def trim(page: gr.Blocks, most: int) -> int:
    """Deletes a page's files, those not used for longest first, until the others take at most `most` bytes; gives the
    bytes deleted. What gradio keeps for its components stays and does not count."""
    stays: set[str] = set().union(*(getattr(block, "keep_in_cache", ()) for block in page.blocks.values()))
    found: list[tuple[float, int, str]] = []
    for path in set().union(*(files.copy() for files in page.temp_file_sets)) - stays:
        with suppress(OSError):  # deleted since
            held = os.lstat(path)
            found.append((held.st_ctime, held.st_size, path))
    over = sum(size for _, size, _ in found) - most
    deleted = 0
    for _, size, path in sorted(found):
        if deleted >= over:
            break
        with suppress(OSError):  # deleted since
            os.remove(path)
        for files in page.temp_file_sets:
            files.discard(path)
        deleted += size
    return deleted


def bounded(page: gr.Blocks) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for the page's app, in which its files are held within MOST bytes."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async def look() -> None:
            while True:
                await asyncio.sleep(EVERY)
                await asyncio.to_thread(trim, page, MOST)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()

    return lifespan
