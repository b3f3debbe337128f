"""Pictures that come by address, fetched within the bounds of an upload: gradio's own download (6.31) takes a file of
any size into memory before anybody is asked."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from html import escape
from pathlib import Path
from urllib.parse import urljoin

import gradio as gr
import httpx
import safehttpx
from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST
from gradio_client.utils import strip_invalid_filename_characters

from ..images import MAX_BYTES
from . import texts

SLOWEST = 60.0  # seconds that a picture may take to come
REDIRECTS = 5
PLAIN = {"Accept-Encoding": "identity"}  # what comes packed could unpack to anything


def fetching(page: gr.Blocks) -> Callable[[str, str], Awaitable[str]]:
    """A function (address, cache_dir) -> path of the file that lies there, for a page that counts its files (see
    bounds.py). It raises gr.Error, with a sentence, where there is none, or a larger one than an upload may be."""

    async def fetch(url: str, cache_dir: str) -> str:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=cache_dir))
        with ExitStack() as unless_kept:
            unless_kept.callback(shutil.rmtree, place)
            try:
                name = strip_invalid_filename_characters(Path(httpx.URL(url).path).name) or "picture"
                async with asyncio.timeout(SLOWEST):
                    with open(place / name, "wb") as file:
                        async for chunk in _read(url):
                            file.write(chunk)
                            if file.tell() > MAX_BYTES:
                                raise _TooLarge
            except _TooLarge as error:
                raise _refused(texts.TOO_LARGE, url, limit=MAX_BYTES // 1_000_000) from error
            except TimeoutError as error:
                raise _refused(texts.TOO_SLOW, url, limit=round(SLOWEST)) from error
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
                raise _refused(texts.NOT_FETCHED, url) from error
            unless_kept.pop_all()
        page.upload_file_set.add(str(place / name))
        return str(place / name)

    return fetch


class _TooLarge(Exception):
    pass


async def _read(url: str) -> AsyncIterator[bytes]:
    """The bytes at a public address. Raises httpx's errors, or ValueError where it is not a public one."""
    for _ in range(REDIRECTS + 1):
        host, transport = httpx.URL(url).host, None
        if not safehttpx.matches_domain_whitelist(host, PUBLIC_HOSTNAME_WHITELIST):
            transport = safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))
        async with (
            httpx.AsyncClient(transport=transport) as client,
            client.stream("GET", url, headers=PLAIN) as response,
        ):
            if not response.has_redirect_location:
                response.raise_for_status()
                async for chunk in response.aiter_raw():
                    yield chunk
                return
            url = urljoin(url, response.headers["Location"])  # response.url has the number of the host
    raise ValueError(f"more than {REDIRECTS} redirects")


def _refused(sentence: str, url: str, **values: int) -> gr.Error:
    shown = url if len(url) <= 80 else f"{url[:77]}..."
    return gr.Error(escape(sentence.format(url=shown, **values), quote=False), print_exception=False)
