"""Memory plans: what stays on the device, chosen from the sizes in the files before anything is loaded.

`resident` keeps everything there. With `swap` the MLLM (and its aggregation) and the transformer take turns: who reads
is there while it reads, who draws while it draws (turns.py). `lean` also hoists the transformer's modulations
(hoisting.py). All figures here are estimates from the files' shapes and a few rules of thumb; none is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

from .hoisting import is_modulation
from .mllm import PROMPT_TOKENS
from .profiles import Profile
from .sources import LoadError, Located, read_part

PLANS = ("resident", "swap", "lean")  # from the fastest, which takes most, to the smallest
WANTED = ("auto", *PLANS)
GIB = 2**30
READ = 256 + PROMPT_TOKENS  # tokens that the MLLM reads: a picture's, and of a prompt as many as it may have
CGROUP_LIMITS = tuple(
    Path("/sys/fs/cgroup", *names) for names in (("memory.max",), ("memory", "memory.limit_in_bytes"))
)
SPARE = GIB // 2  # for what libraries take for themselves, and for gaps between tensors


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes on the device: weights of the parts, the transformer's without its modulation; the `table` that stands for
    the modulation in a lean plan; the passing tensors while the MLLM is `reading` and while a picture is `drawn`. The
    `lora` of an adapter is merged in host memory and never on the device."""

    mllm: int
    aggregation: int
    transformer: int
    modulation: int
    vae: int
    lora: int
    table: int
    reading: int
    drawing: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan by name with its `sizes`; `free` are the bytes that the `device` had left, None where nobody counts."""

    name: str
    sizes: Sizes
    device: str
    free: int | None

    @property
    def turns(self) -> bool:
        """Whether MLLM and transformer take turns on the device."""
        return self.name != "resident"

    @property
    def hoisted(self) -> bool:
        """Whether the transformer's modulations leave the device."""
        return self.name == "lean"

    def there(self) -> dict[str, dict[str, int]]:
        """What lies on the device while the MLLM reads and while a picture is drawn, in bytes by name."""
        sizes = self.sizes
        reader = {"MLLM": sizes.mllm, "aggregation": sizes.aggregation}
        drawer = {"transformer": sizes.transformer}
        drawer |= {"table": sizes.table} if self.hoisted else {"modulation": sizes.modulation}
        shared = {"VAE": sizes.vae}
        if not self.turns:
            shared = reader | drawer | shared
        return {
            "reading": (reader | shared if self.turns else shared) | {"work": sizes.reading, "spare": SPARE},
            "drawing": (drawer | shared if self.turns else shared) | {"work": sizes.drawing, "spare": SPARE},
        }

    @property
    def peak(self) -> int:
        """The most bytes that are on the device at one time."""
        return max(sum(parts.values()) for parts in self.there().values())

    def waiting(self) -> int:
        """Bytes of weights in host memory, in turns or for good."""
        sizes = self.sizes
        return sizes.mllm + sizes.aggregation + sizes.transformer + sizes.modulation if self.turns else 0

    def passing(self) -> int:
        """The most bytes of weights in host memory while loading: beside what stays there, the transformer before it
        goes to the device, and the LoRA that is merged into it. An MLLM in 8-bit is read straight onto the device."""
        sizes = self.sizes
        return (self.waiting() or sizes.transformer + sizes.modulation) + sizes.lora

    @property
    def smaller(self) -> str:
        """How to start the program where the device is full all the same, to be put into a sentence."""
        less = PLANS[PLANS.index(self.name) + 1 :]
        return f"with --memory {less[0]}" if less else "when more memory is free"

    def as_text(self) -> str:
        """What goes where in GiB, in a few lines."""
        free = "" if self.free is None else f", {gib(self.free)} free"
        lines = [f"Memory plan {self.name} on {self.device} (estimates in GiB: {gib(self.peak)} needed{free}):"]
        for when, parts in self.there().items():
            listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
            lines.append(f"  while {when}: {listed} = {gib(sum(parts.values()))}")
        if self.turns:
            lines.append(f"  kept in host memory: {gib(self.waiting())}")
        if self.passing() > self.waiting():
            lines.append(f"  in host memory while loading: {gib(self.passing())}")
        return "\n".join(lines)


def check_name(wanted: str) -> None:
    """Raises LoadError unless it is "auto" or a plan's name."""
    if wanted not in WANTED:
        raise LoadError(f"There is no memory plan {wanted!r}. Choose one of {', '.join(WANTED)} with --memory.")


def choose(wanted: str, sizes: Sizes, device: torch.device | str, free: int | None, host: int | None = None) -> Plan:
    """The plan of that name, or with "auto" the first of PLANS that fits into `free` bytes (None = any does).

    Raises LoadError with the numbers where the plan, or every plan, needs more than there is, or where its weights can
    never fit into the `host` bytes of this machine's own memory (None = they do).
    """
    check_name(wanted)
    plans = [Plan(name=name, sizes=sizes, device=str(device), free=free) for name in PLANS]
    fitting = [plan for plan in plans if free is None or plan.peak <= free]
    named = [plan for plan in plans if wanted in ("auto", plan.name)]
    chosen = next((plan for plan in named if plan in fitting), None)
    if chosen:
        _check_host(chosen, host)
        return chosen
    needs = ", ".join(f"{plan.name} about {gib(plan.peak)}" for plan in plans)
    if not fitting:
        raise LoadError(
            f"No memory plan fits on {device}: {gib(free)} GiB are free, and the plans need ({needs}) GiB. Close what "
            f"else uses the card, or take a larger one."
        )
    raise LoadError(
        f"Memory plan {wanted} needs about {gib(named[0].peak)} GiB and {gib(free)} GiB are free on {device}. Use "
        f"--memory {fitting[0].name}, which needs about {gib(fitting[0].peak)} GiB."
    )


def _check_host(plan: Plan, host: int | None) -> None:
    """Raises LoadError where the system would end the program in the middle of loading, without a word."""
    touched = plan.turns or plan.sizes.lora  # else they are read from the files as they are needed, and can be dropped
    if host is None or plan.free is None or not touched or plan.passing() <= host:
        return
    raise LoadError(
        f"Memory plan {plan.name} takes {gib(plan.passing())} GiB of host memory for weights while loading, and this "
        f"machine or its container has {gib(host)} GiB. Take one with more."
    )


def host_bytes() -> int:
    """The bytes of memory that this machine has, or the container that the program runs in; of several processes on
    one machine (accelerate, torchrun) each has its share."""
    total = psutil.virtual_memory().total
    for limit in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no container, or one without a limit, which is a word
            total = min(total, int(limit.read_text()))
    return total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_bytes(device: torch.device) -> int | None:
    """The bytes that are free on a CUDA device; None for others, whose memory is nobody's plan."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def gib(count: int) -> str:
    """Bytes as GiB with one decimal."""
    return f"{count / GIB:.1f}"


# --- sizes from files -----------------------------------------------------------------------------------------------


def measure(profile: Profile, parts: Mapping[str, Located]) -> Sizes:
    """The sizes of a profile's parts from the headers and configurations of `parts` (mllm, transformer, vae, and
    aggregation and lora where there are any), at the profile's precision and picture size. No weights are read.

    The passing tensors are upper bounds by rule of thumb, kernels' own workspaces left out. Reading, the larger of: 30
    bytes for each value of every layer's states, what DLA's poolings over layers hold of them at once, 4 where only the
    last is used; 3 tensors of (side, side, channels of the VAE's second level), what its encoder has of a reference.
    Drawing: the larger of 20 tensors of (tokens, width), which a block with its attention and MLP has at a time,
    and 4 of (side, side, channels of the VAE's second level), which its decoder has.
    """
    item = getattr(torch, profile.dtype).itemsize
    side = profile.size
    reference = side if profile.at_target else profile.limits.reference
    tokens = side**2 // 256 + READ + profile.limits.references * (reference**2 // 256)
    width, channels = read_part(parts["transformer"], _width), read_part(parts["vae"], _channels)
    layers, state = read_part(parts["mllm"], states_of)
    weights = {
        name: read_part(parts[name], partial(weight_bytes, item=item))
        for name in ("aggregation", "transformer", "vae")
        if name in parts
    }
    modulation = read_part(parts["transformer"], partial(weight_bytes, item=item, only=is_modulation))
    language_only = partial(weight_bytes, item=item, only=_no_head, eight_bit=profile.mllm_8bit)
    rows = profile.limits.steps * 3  # of the prompt's vector, the null vector and a negative prompt's
    return Sizes(
        mllm=read_part(parts["mllm"], language_only),
        aggregation=weights.get("aggregation", 0),
        transformer=weights["transformer"] - modulation,
        modulation=modulation,
        vae=weights["vae"],
        lora=read_part(parts["lora"], _file_bytes) if "lora" in parts else 0,
        table=rows * modulation // width,  # an output of each layer is a `width`-th of its weights
        reading=max(READ * layers * state * (30 if "aggregation" in parts else 4), item * 3 * reference**2 * channels),
        drawing=item * max(20 * tokens * width, 4 * side**2 * channels),
    )


def weight_bytes(
    folder: Path, item: int, *, only: Callable[[str], bool] = lambda name: True, eight_bit: bool = False
) -> int:
    """Bytes that the weights in a folder take once loaded at `item` bytes a number, from their files' headers; `only`
    picks by name. With `eight_bit` the linear layers of a language model take one byte a number and 4 a row."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if only(name):
                    total += _loaded(name, file.get_slice(name).get_shape(), item, eight_bit)
    return total


def _loaded(name: str, shape: list[int], item: int, eight_bit: bool) -> int:
    count = 1
    for length in shape:
        count *= length
    seen = any(word in name for word in ("vision", "visual"))
    if eight_bit and len(shape) == 2 and ".layers." in name and not seen:
        return count + 4 * shape[0]
    return count * item


def _file_bytes(folder: Path) -> int:
    """Bytes of a folder's weights as they are read, in the precision of the files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _no_head(name: str) -> bool:
    return "lm_head" not in name


def _width(transformer: Path) -> int:
    config = config_of(transformer)
    return config["num_attention_heads"] * config["attention_head_dim"]


def states_of(mllm: Path) -> tuple[int, int]:
    """The hidden states that an MLLM has of each token, and their width, by its configuration."""
    config = config_of(mllm)
    language = config.get("text_config", config)
    return language["num_hidden_layers"] + 1, language["hidden_size"]


def _channels(vae: Path) -> int:
    return config_of(vae)["block_out_channels"][:2][-1]


def config_of(folder: Path) -> dict[str, Any]:
    """A part's config.json."""
    return json.loads((folder / "config.json").read_text())
