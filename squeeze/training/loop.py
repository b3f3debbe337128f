"""The training loop every part shares: optimiser, EMA, time box, progress, sample grids, checkpoints, exact resume.

A part's randomness is a function of (seed, step) alone, so a checkpoint holds weights, EMA, Adam's state and the
step, nothing else, and 10 steps + resume + 10 steps equal 20 steps bit for bit. Started by `torchrun`, each process
trains on samples of its own and gradients are averaged; only the first process writes and reports.
"""

from __future__ import annotations

import copy
import io
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from diffusers import ConfigMixin
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..files import not_written, whole
from ..models.failures import reason, trouble
from ..models.parts import read_model
from ..models.sources import LoadError, Located, read_part

STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a part is optimised. `batch` samples a step and process; `rate` peak learning rate, warmed up over `warmup`
    steps, then cosine to 2 % over the run; `ema` decay per step."""

    batch: int
    rate: float
    warmup: int = 100
    ema: float = 0.998
    decay: float = 0.01
    clip: float = 1.0


class Part(Protocol):
    """What is trained: modules, a loss that is a function of the step, a picture to judge it by, and how to write it
    down."""

    name: str
    schedule: Schedule
    model: nn.Module

    def loss(self, step: int) -> Tensor: ...

    def grid(self, model: Any) -> Image.Image: ...

    def save(self, model: Any, folder: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step done. `loss` is a running mean over some 50 steps; `seconds` since the start of this run."""

    step: int
    loss: float
    samples_per_second: float
    fraction: float
    seconds: float


class DivergedError(RuntimeError):
    """A training that leads nowhere; the message says what to do."""


class Ema:
    """An exponential moving average of a model's weights and floating-point buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        live = model.state_dict()
        floats = [key for key, value in live.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in floats], [live[k] for k in floats], 1 - decay)
        for key in live.keys() - set(floats):
            self.state[key].copy_(live[key])

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """A context in which `model` holds the averaged weights; a stop leaves it whole, with those or its own."""
        live = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            with undisturbed():
                model.load_state_dict(self.state)
            yield model.eval()
        finally:
            with undisturbed():
                model.load_state_dict(live)
                model.train()


def bf16_pays(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32: on a CPU without instructions for them they take thirty times
    as long."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many train together; (0, 1) without `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(model: nn.Module, *numbers: float) -> list[float]:
    """Averages gradients in place, and `numbers`, over all processes; every process must have the same gradients."""
    if rank_and_world()[1] == 1:
        return list(numbers)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(grad.flatten() for grad in grads), grads[0].new_tensor(numbers)])
    dist.all_reduce(flat)
    flat /= rank_and_world()[1]
    *parts, rest = flat.split([*(grad.numel() for grad in grads), len(numbers)])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
    return rest.tolist()


def learning_rate(schedule: Schedule, step: int, fraction: float) -> float:
    """The rate at a step; `fraction` in [0, 1] is how much of the run is over."""
    warm = min(1.0, (step + 1) / schedule.warmup)
    return schedule.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Lets a stop by signal wait until the block is done: a checkpoint must not hold half a step."""
    if threading.current_thread() is not threading.main_thread():  # where no signal is handled
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda one, _: came.append(one)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def fit(
    part: Part,
    out: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    pause_at: int | None = None,
    resume: Path | None = None,
    save_every: float = 300.0,
) -> Iterator[Progress]:
    """Trains a part within `minutes` or up to step number `steps`, yielding after each step.

    Writes `checkpoint-NAME.pt` and `grid-NAME.png` under `out` every `save_every` seconds and at the end (also when
    the caller stops iterating), and the averaged weights through `part.save`. `resume` is a folder with such a
    checkpoint, or any other folder that `part` has already loaded its weights from; `pause_at` ends early without
    changing the schedule of `steps`. Raises LoadError for a checkpoint that is of no use, WriteError where the disk
    takes nothing more, and DivergedError, with the weights of the step before kept, where loss or gradient is no
    number.
    """
    box = minutes if steps is None else steps
    if (minutes is None) == (steps is None) or not 0 < box < math.inf:
        raise ValueError(f"give either minutes or steps, above 0, not {minutes} and {steps}")
    out.mkdir(parents=True, exist_ok=True)
    rank, world = rank_and_world()
    schedule, model, file = part.schedule, part.model, checkpoint_name(part.name)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], schedule.rate, (0.9, 0.98), weight_decay=schedule.decay
    )
    if world > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, 0)
    ema, first = Ema(model, schedule.ema), 0
    if resume is not None and (resume / file).exists():
        first = _restore(resume / file, model, optimiser, ema)
    device = next(model.parameters()).device
    began = saved = time.monotonic()
    mean: float | None = None
    step, elapsed = first, 0.0
    held: tuple[int, list[tuple[Tensor, Tensor]]] = (first, [])  # buffers, which a forward changes, as they were before
    model.train()

    def write() -> None:
        kept = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema.state, "step": step}
        written = io.BytesIO()  # torch's own writer does not say that a disk is full
        torch.save(kept, written)
        then = f"go on with --resume {out}"
        with whole(out / file, then) as new:
            new.write_bytes(written.getbuffer())
        with ema.swapped(model) as averaged, torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            part.save(averaged, out)
            with whole(out / f"grid-{part.name}.png", then) as new:
                part.grid(averaged).save(new, "PNG")

    try:
        while True:
            fraction = (elapsed / 60 if steps is None else step) / box
            if fraction >= 1 or step == pause_at:
                break
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(schedule, step, fraction)
            held = (step, [(buffer, buffer.clone()) for buffer in model.buffers()])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16_pays(device)):
                loss = part.loss(step)
            loss.backward()
            value, elapsed = share(model, loss.item(), time.monotonic() - began)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip).item()
            if not math.isfinite(value + norm):
                kept = f"{out} keeps what was learnt before: go on from it by --resume {out}" if step else "Start again"
                what = f"Step {step} has a loss of {value:g} and a gradient of {norm:g}"
                raise DivergedError(f"{what}. {kept} with a --rate below {schedule.rate:g}.")
            with undisturbed():
                optimiser.step()
                ema.update(model, step)
                step += 1
            optimiser.zero_grad(set_to_none=True)
            mean = value if mean is None else mean + (value - mean) / min(50, step - first)
            seconds = time.monotonic() - began
            speed = (step - first) * schedule.batch * world / max(1e-9, seconds)
            yield Progress(step=step, loss=mean, samples_per_second=speed, fraction=min(1.0, fraction), seconds=seconds)
            if rank == 0 and time.monotonic() - saved > save_every:
                write()
                saved = time.monotonic()
    finally:
        if step == held[0]:  # a step that was not done
            for buffer, before in held[1]:
                buffer.copy_(before)
        if rank == 0 and step > 0:  # also where nothing was left to do: a kill may have come between the two writes
            write()


def checkpoint_name(part: str) -> str:
    """The file, in its folder, that a training of a part resumes from."""
    return f"checkpoint-{part}.pt"


def _restore(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ema: Ema) -> int:
    """Takes everything over from a checkpoint and gives its step. Raises LoadError where it is damaged or another
    model's."""
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        here = {name: value.data for name, value in model.named_parameters() if not value.requires_grad}
        if any(not torch.equal(kept["model"][name], value.cpu()) for name, value in here.items()):
            raise ValueError("what it was trained beside has changed since")
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        ema.state = {key: value.to(ema.state[key].device) for key, value in kept["ema"].items()}
        return kept["step"]
    except Exception as error:  # torch raises half a dozen types for a damaged file
        if trouble(error):
            raise
        raise LoadError(
            f"The checkpoint {file} is damaged or another model's ({reason(error)}). Move it away to go on from the "
            f"weights beside it, or name another folder with --resume."
        ) from error


def show_progress(progress: Iterator[Progress], name: str) -> Progress | None:
    """Runs a training to its end with a bar on stderr; gives its last state."""
    last = None
    shown = 0.0
    for last in progress:
        if rank_and_world()[0] == 0 and time.monotonic() - shown > (0.5 if sys.stderr.isatty() else 30):
            shown = time.monotonic()
            bar = "█" * int(24 * last.fraction)
            end = "\r" if sys.stderr.isatty() else "\n"
            print(
                f"{name} {bar:<24} {last.fraction:4.0%}  step {last.step}  loss {last.loss:.4f}  "
                f"{last.samples_per_second:.0f} samples/s",
                end=end, file=sys.stderr, flush=True,
            )  # fmt: skip
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return last


def read_start(kind: Any, folder: Path) -> Any:
    """A model of class `kind` to train on from, in fp32. Raises LoadError where its weights are damaged or another
    version's."""
    return read_part(start_of(folder), lambda path: read_model(kind, path, "float32"))


def start_of(folder: Path) -> Located:
    """A folder that a training starts from."""
    restore = "Name another folder with --resume, or leave it out to start afresh."
    return Located(path=folder, origin=str(folder), restore=restore)


def save_bf16(model: Any, folder: Path, *besides: Any) -> None:
    """Writes a model in bf16, the form the project ships, and what it is read with `besides`; the model itself is left
    as it is. Where it was loaded from is not written: that is a folder of the machine that trained it. Each file is
    replaced whole or not at all; raises WriteError where the disk is full or takes nothing."""
    shipped = nn.Module.to(copy.deepcopy(model), torch.bfloat16)  # diffusers' own warns of modules that are not there
    if isinstance(shipped, ConfigMixin):
        shipped.register_to_config(_name_or_path="")
    new = folder.with_name(f".{folder.name}.new")
    try:
        for part in (shipped, *besides):
            part.save_pretrained(new)
        folder.mkdir(parents=True, exist_ok=True)
        for file in new.iterdir():
            file.replace(folder / file.name)
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and "(os error" not in str(error):  # as tokenizers has it
            raise
        raise not_written(folder, error, f"go on with --resume {folder.parent}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
