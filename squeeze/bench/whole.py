"""The blocks that need whole models on the disk, read as the program reads its own: MLLM in 8-bit, memory plans."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..events import StepDone
from ..files import not_written
from ..models.loading import LoadError, Models, check_bitsandbytes, load
from ..models.memory import GIB, PLANS, gib
from ..models.mllm import Mllm
from ..models.parts import read_mllm
from ..models.sources import Located
from ..pipeline import default_request, generate
from .rows import DERIVED, MEASURED, Row, at_most, attempted, cleared, compared, figures, timed
from .scene import Bench, furthest
from .sizes import write_drawer, write_mllm
from .timing import interleaved, spread

DISK = {"full": {"mllm": 16 * GIB, "vae": 25 * GIB}, "tiny": {"mllm": 0, "vae": 0}}  # rounded up
DRAWS = ("aggregation", "transformer", "vae")  # the folders that write_drawer writes
MOST = {"resident": 36.0, "lean": 22.0}  # GiB, the goals


def mllm(bench: Bench) -> Iterator[Row]:
    """Reading a reference and a prompt with the MLLM in 8-bit against its own precision, both at hand."""
    bench.release()
    _write(bench, "mllm")
    plain = bench.size.profile["dtype"]
    sides: dict[str, Callable[[], Any]] = {}
    for name, eight_bit in (("8-bit", True), (plain, False)):
        if eight_bit:
            try:
                check_bitsandbytes(bench.device)
            except LoadError as error:
                yield Row(what="reading and memory in 8-bit", note=str(error))
                continue
        before = _allocated(bench)
        reader = _reader(bench, eight_bit)
        held = _allocated(bench) - before if bench.card else _bytes(reader)
        kind, note = (MEASURED, "") if bench.card else (DERIVED, "Summed over weights.")
        yield Row(what=f"weights in {name}", kind=kind, value=held / GIB, unit="GiB", note=note)
        sides[name] = partial(_read, bench, reader)
        if bench.card:
            yield Row(what=f"passing tensors of a reading in {name}", value=_passing(sides[name]) / GIB, unit="GiB")
    times = interleaved(sides, bench.clock, bench.device)
    if len(sides) == 2:
        note = "Random weights have no outlier columns, which 8-bit computes apart."
        yield compared("reading", times, *sides, bench.card, note=note)
        yield from timed("reading", times, bench.card)


def memory(bench: Bench) -> Iterator[Row]:
    """Each memory plan through the program's own loader: peak on the card with loading, time and sameness of a
    picture."""
    bench.release()
    _write(bench, "mllm")
    _write(bench, "vae")
    eight_bit, note = True, ""
    try:
        check_bitsandbytes(bench.device)
    except LoadError as error:
        eight_bit, note = False, f"MLLM in {bench.size.profile['dtype']}: {error}"
    drawn: dict[str, tuple[Tensor, float]] = {}
    for done, name in enumerate(PLANS):
        bench.clock.part(len(PLANS) - done)
        yield from attempted(f"plan {name}", _plan(bench, name, eight_bit, note, drawn))


def _plan(bench: Bench, name: str, eight_bit: bool, note: str, drawn: dict[str, tuple[Tensor, float]]) -> Iterator[Row]:
    """Rows of one plan; puts its last latent and its seconds into `drawn`, where it finds those of the plans before."""
    bench.clock.check()
    cleared()
    if bench.card:
        torch.cuda.reset_peak_memory_stats()
    models = load(bench.size.row(bench.folder, eight_bit), device=bench.device.type, memory=name)
    latents: list[Tensor] = []
    times = interleaved({"picture": partial(_draw, bench, models, latents)}, bench.clock, bench.device, rounds=3)
    taken = spread(times["picture"])
    drawn[name] = latents[-1], taken.median
    if bench.card:
        peak, what = torch.cuda.max_memory_reserved() / GIB, f"plan {name}: peak reserved memory, loading included"
        if name in MOST and eight_bit:
            yield at_most(what, peak, MOST[name], unit="GiB")
        else:
            yield Row(what=what, value=peak, unit="GiB", note=note)
        estimate = models.plan.peak / GIB
        yield Row(what=f"plan {name}: what was estimated before loading", kind=DERIVED, value=estimate, unit="GiB")
        yield Row(what=f"plan {name}: a picture, reading included", unit="s", note=note, **figures(taken))
    if name == "resident" or "resident" not in drawn:
        return
    apart = furthest(drawn[name][0], drawn["resident"][0])
    what = f"plan {name} and resident: largest difference of the latents"
    if not bench.card:  # where swapping moves nothing, but weights may lie otherwise in memory and sums differ by that
        yield at_most(what, apart, 1e-5, note=note)
    elif name == "swap":
        yield at_most(what, apart, 0, note=note)
    else:  # half precision has no bound to hold it against
        yield Row(what=what, value=apart, note=note)
    ratio, order = taken.median / drawn["resident"][1], "One plan after the other, not interleaved."
    yield Row(
        what=f"plan {name}: time of a picture / resident's", value=ratio, unit="x", note=f"{order} {note}".strip()
    )


def _draw(bench: Bench, models: Models, latents: list[Tensor]) -> None:
    models.encodings.clear()
    request = default_request(
        models.profile, prompt=bench.size.prompt, references=(bench.size.picture(),), previews=False
    )
    latents[:] = [event.img for event in generate(models, request) if isinstance(event, StepDone)]


def _reader(bench: Bench, eight_bit: bool) -> Mllm:
    path = bench.folder / "mllm"
    part = Located(path=path, origin="random", restore="Run it again.")
    parts = dict.fromkeys(("mllm", "tokenizer", "processor"), part)
    return read_mllm(parts, bench.size.row(bench.folder, eight_bit), bench.device)


@torch.inference_mode()
def _read(bench: Bench, reader: Mllm) -> None:
    reader.encode([reader.view(bench.size.picture())], bench.size.prompt)


def _allocated(bench: Bench) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if bench.card else 0


def _passing(work: Callable[[], Any]) -> int:
    """Bytes that a call allocates beside what is there before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def _bytes(reader: Mllm) -> int:
    return sum(part.nbytes for part in (*reader.model.parameters(), *reader.model.buffers()))


def _write(bench: Bench, part: str) -> None:
    """Writes the MLLM, or with "vae" all that draws, unless it is there."""
    if (bench.folder / part).is_dir():
        return
    free, needed = shutil.disk_usage(bench.folder).free, DISK[bench.size.name][part]
    if free < needed:
        raise LoadError(
            f"Not measured: random weights of {gib(needed)} GiB have to be written, and {gib(free)} GiB are free in "
            f"{bench.folder.parent}. Name another place with TMPDIR."
        )
    try:
        if part == "mllm":
            write_mllm(bench.size, bench.folder / part)
        else:
            write_drawer(bench.size, bench.folder)
    except (OSError, SafetensorError) as error:
        for half in ("mllm",) if part == "mllm" else DRAWS:  # which would be taken for the whole
            shutil.rmtree(bench.folder / half, ignore_errors=True)
        raise not_written(bench.folder / part, error, "measure again, or name another place with TMPDIR") from error
