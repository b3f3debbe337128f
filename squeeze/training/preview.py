"""The preview map's network, trained beside a VAE that stays as it is."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import copy_folder, whole
from ..models.parts import read_map
from ..models.sources import PREVIEW, read_part
from ..models.vae import PreviewMap, Vae
from .data import Pool, chunk_seed, draw_labelled, to_bytes, to_unit
from .loop import Schedule, read_start, start_of
from .parts import tile

CHUNK = 256
HIDDEN = 64  # channels of the network
NOISE = 0.15  # the most that is added, in deviations of the latents
CONTRAST = (0.6, 1.1)  # what is foreseen early is smaller than a picture's latents
BLUR = 5  # positions of a latent that early ones are averaged over, in each direction


class PreviewPart:
    """The network of a preview map. It is shown latents as a sampler foresees them, blurred, too weak and a little
    noisy, and is to see what the VAE's decoder makes of them: what is not yet decided looks soft and not speckled.

    The linear map, which lies with the VAE in `start`, stays as it is.
    """

    name = "preview"

    def __init__(
        self,
        size: int = 64,
        device: str = "cpu",
        seed: int = 0,
        *,
        start: Path,
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._beside = start / "vae"
        self.schedule = Schedule(batch=batch or 32, rate=rate or 2e-3, decay=0.0)
        vae = read_start(AutoencoderKL, start / "vae")
        fitted = read_part(start_of(start / "vae"), read_map)
        model = fitted if fitted.network is not None else PreviewMap(fitted.weight, fitted.bias, HIDDEN)
        model.network.requires_grad_(True)
        self.model = model.to(device)
        self._vae = Vae(vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False))
        self._device, self._size, self._seed = device, size, seed
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=16, reuse=24, seed=seed)

    def _make(self, index: int) -> dict[str, Tensor]:
        return self._seen(chunk_seed(8, self._seed, index), CHUNK)

    @torch.no_grad()
    def _seen(self, seed: int, count: int, held_out: bool = False) -> dict[str, Tensor]:
        pixels = draw_labelled(count, seed, self._size, self._device, held_out)["pixels"]
        latents = torch.cat([self._vae.encode(to_unit(part)) for part in pixels.split(32)])
        latents = foreseen(latents, torch.Generator().manual_seed(seed))
        decoded = torch.cat([self._vae.decode(part) for part in latents.split(32)])
        return {"latents": latents, "decoded": to_bytes((decoded + 1) / 2)}

    def loss(self, step: int) -> Tensor:
        """Mean squared and absolute error of what is seen against what the decoder makes of the same latents."""
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        wanted, seen = to_unit(batch["decoded"]), self.model.unclamped(batch["latents"])
        return F.mse_loss(seen, wanted) + 0.05 * F.l1_loss(seen, wanted)

    def grid(self, model: nn.Module) -> Image.Image:
        """What the decoder makes of held-out renders' latents made worse, and below what is seen of them."""
        drawn = self._seen(7, 16, held_out=True)
        return tile(torch.cat([to_unit(drawn["decoded"]), model(drawn["latents"])]), 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `vae/preview.safetensors`, beside the VAE it was trained with."""
        copy_folder(self._beside, folder / "vae")
        with whole(folder / "vae" / PREVIEW, f"go on with --resume {folder}") as new:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, new)


def foreseen(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) of pictures as a sampler might foresee them in the middle of its way: partly averaged over
    their neighbours, larger or smaller, and with noise, each to a degree of its own."""

    def degree(low: float, high: float) -> Tensor:
        share = torch.rand(len(latents), 1, 1, 1, generator=generator)
        chosen = torch.rand(len(latents), 1, 1, 1, generator=generator) < 0.7
        return torch.where(chosen, low + (high - low) * share, torch.zeros(())).to(latents.device)

    blurred = F.avg_pool2d(F.pad(latents, (BLUR // 2,) * 4, mode="replicate"), BLUR, stride=1)
    low, high = CONTRAST
    contrast = 1 + degree(low - 1, high - 1)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return torch.lerp(latents, blurred, degree(0, 1)) * contrast + degree(0, NOISE) * noise
