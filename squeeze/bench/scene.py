"""What the blocks measure on: a transformer with random weights and the tokens of one request, and how it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.dit import Conditioning, Dit, Identity
from ..models.kernels import pick_backend
from ..pipeline import default_request, guided, plan
from ..request import Request
from ..sampling import denoise, draw_noise, grid_ids
from .rows import cleared
from .sizes import Size, transformer
from .timing import Clock


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A request with everything encoded. `negative` has as many tokens as `conditioning`; `grid` is the target's side
    and `reference` the reference's in tokens; `noise` (1, N, 4 C); `counts` the steps of each stage."""

    dit: Dit
    request: Request
    times: list[float]
    counts: tuple[int, int, int]
    grid: int
    reference: int
    noise: Tensor
    img_ids: Tensor
    conditioning: Conditioning
    negative: Conditioning
    identity: Identity

    @torch.inference_mode()
    def drawn(self, start: int = 0, img: Tensor | None = None, **asked: Any) -> list[Tensor]:
        """The latents (1, N, 4 C) after each step from `start`, on the host as the pipeline keeps them; `asked` are
        fields of the request."""
        request = replace(self.request, **asked)
        velocity = guided(self.dit, request, self.counts, self.img_ids, self.conditioning, self.negative, self.identity)
        img = (self.noise if img is None else img).to(self.img_ids.device)
        return [moved.img.cpu() for moved in denoise(img, self.times, velocity, start)]


class Bench:
    """What one run shares between blocks: the size, the device, the clock, the scene while blocks want it, and a
    `folder` for weights on the disk."""

    def __init__(self, size: Size, device: torch.device, clock: Clock, folder: Path) -> None:
        self.size, self.device, self.clock, self.folder = size, device, clock, folder
        self.card = device.type == "cuda"  # whether seconds and bytes of the device are worth something

    @cached_property
    def scene(self) -> Scene:
        """Made at the first use; `release` lets it go."""
        model = transformer(self.size, self.device)
        pick_backend(model, self.device)
        return make_scene(self.size, Dit(model), self.device)

    def release(self) -> None:
        """The device is to be empty."""
        self.__dict__.pop("scene", None)
        cleared()


def make_scene(size: Size, dit: Dit, device: torch.device | str) -> Scene:
    """Random tokens of the size's counts for a transformer on `device`, which may be "meta"."""
    profile = size.row()
    picture = size.picture()
    request = default_request(profile, prompt=size.prompt, references=(picture,), previews=False)
    times, counts = plan(profile, request)
    grid, reference = size.side // 16, size.reference // 16
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def said() -> Conditioning:
        tokens = size.pictures + size.words
        return Conditioning(
            txt=normal(1, tokens, dit.text_width), image=torch.arange(tokens, device=device) < size.pictures,
            vec=normal(1, dit.pooled_width), null_vec=torch.zeros(1, dit.pooled_width, device=device),
        )  # fmt: skip

    return Scene(
        dit=dit, request=request, times=times, counts=counts, grid=grid, reference=reference,
        noise=next(draw_noise(0, grid**2, dit.channels)).to(device), img_ids=grid_ids(grid, grid).to(device),
        conditioning=said(), negative=said(),
        identity=Identity(
            ref=normal(1, reference**2, dit.channels), ref_ids=grid_ids(reference, reference, 1).to(device)
        ),
    )  # fmt: skip


@contextmanager
def forwards(dit: Dit) -> Iterator[list[int]]:
    """The number of tokens of every forward inside the block, in order."""
    seen: list[int] = []

    def note(_model: Any, _arguments: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["hidden_states"].shape[1] + kwargs["encoder_hidden_states"].shape[1])

    handle = dit.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def furthest(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; infinite where anything is NaN."""
    apart = (a.float() - b.float()).abs().max().item()
    return apart if apart == apart else float("inf")
