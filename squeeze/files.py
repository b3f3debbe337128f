"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

FULL = (errno.ENOSPC, errno.EDQUOT)
AGAIN = "run the same command again"


class WriteError(RuntimeError):
    """A disk that is full or takes nothing; the message says which file and what to do."""


def not_written(path: Path, error: Exception, then: str) -> WriteError:
    """What to raise for an error met while `path` was written; `then` is what to do once there is room again."""
    said = str(error).lower()  # safetensors and shutil.copytree give no errno
    full = any(
        getattr(error, "errno", None) == code or f"os error {code}" in said or f"[errno {code}]" in said
        for code in FULL
    )
    what = "The disk is full" if full else f"It cannot be written ({getattr(error, 'strerror', None) or error})"
    remedy = "Make room" if full else "Mend that, or choose another folder"
    return WriteError(f"{what}: {path} was not written; what was finished before is kept. {remedy}, then {then}.")


def part_of(path: Path) -> Path:
    """What a file is named until it is whole."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole(path: Path, then: str = AGAIN) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when the block ends well and is removed
    otherwise. Raises WriteError where the disk is full or cannot be written to; it ends with what to do `then`."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error, then) from error
    finally:
        if part.exists():
            part.unlink()


def write_text(path: Path, text: str, then: str = AGAIN) -> None:
    """Writes a text file whole or not at all, see `whole`."""
    with whole(path, then) as part:
        part.write_text(text, encoding="utf-8")


def copy_folder(source: Path, out: Path, then: str = AGAIN) -> None:
    """Copies a folder whole or not at all, unless there is one already, see `whole`."""
    if out.is_dir():
        return
    part = part_of(out)
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source, part)
        part.rename(out)
    except OSError as error:
        raise not_written(out, error, then) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
