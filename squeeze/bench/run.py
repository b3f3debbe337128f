"""A run of the benchmark: which blocks, in which order, within how many minutes."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..models.kernels import pick_backend
from ..request import RequestError
from .drawing import compiled, flops, loop, previews, resume, stages, weights
from .rows import Row, as_dict, attempted, cleared
from .scene import Bench
from .sizes import SIZES, Size, transformer
from .timing import Clock
from .whole import memory, mllm

BLOCKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "loop": loop,
    "stages": stages,
    "weights": weights,
    "previews": previews,
    "compile": compiled,
    "mllm": mllm,
    "memory": memory,
    "resume": resume,
    "flops": flops,
}
LIBRARIES = ("torch", "diffusers", "transformers", "bitsandbytes")


def chosen(only: Sequence[str]) -> list[str]:
    """The blocks of those names in their order, all where none is named; raises RequestError for one there is not."""
    for name in only:
        if name not in BLOCKS:
            raise RequestError("option", name="--only", value=repr(name), choices=", ".join(BLOCKS))
    return [name for name in BLOCKS if not only or name in only]


def size_for(device: torch.device) -> Size:
    """The paper's on a card, a tiny one elsewhere."""
    return SIZES["full" if device.type == "cuda" else "tiny"]


def made_on(device: torch.device) -> dict[str, str]:
    """What figures may only be compared within: device, size, precision, attention kernel and versions."""
    size = size_for(device)
    if device.type == "cuda":
        named = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        named = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} used ({platform.machine()})"
    small = replace(size, transformer={**size.transformer, "num_layers": 1, "num_single_layers": 0})
    attention = pick_backend(transformer(small, "meta"), device)
    made = {"device": named, "size": size.name, "dtype": size.profile["dtype"], "attention": attention}
    built = {"torch": torch.__version__}  # names the build for CPU or CUDA, which its package on PyPI does not
    return made | {name: _version(name) for name in LIBRARIES} | built


def run(minutes: float, device: torch.device, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs blocks; yields the name of each with its date, its seconds and its rows (rows.Row as dictionaries)."""
    clock = Clock(minutes)
    with tempfile.TemporaryDirectory(prefix="squeeze-bench-") as folder:
        bench = Bench(size_for(device), device, clock, Path(folder))
        for done, name in enumerate(names):
            clock.share(len(names) - done)
            began = time.monotonic()
            rows = [as_dict(row) for row in attempted(name, _block(bench, name))]
            cleared()  # hoisted modulations hold their transformer in a circle
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            yield name, {"date": date, "seconds": round(time.monotonic() - began, 1), "rows": rows}


def _block(bench: Bench, name: str) -> Iterator[Row]:
    bench.clock.check()
    yield from BLOCKS[name](bench)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
