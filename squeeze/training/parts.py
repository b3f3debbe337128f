"""The parts of the embedded model that stand on their own: VAE and probe."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import whole
from ..models.sources import PREVIEW
from ..models.vae import Vae, fit_preview
from ..plush.probe import Probe, at_size, augment, build_loss, probe_loss
from ..plush.render import MATERIALS
from .data import Pool, chunk_seed, draw_labelled, to_bytes, to_unit
from .loop import Schedule, read_start, save_bf16

CHUNK = 512
LATENT_NOISE = 0.2  # the most that a decoder trained alone sees, in deviations of the latents


def tile(pixels: Tensor, columns: int) -> Image.Image:
    """Pictures (B, 3, H, W) in [-1, 1] side by side, row by row."""
    columns = min(columns, len(pixels))
    rows = pixels[: len(pixels) // columns * columns].float().clamp(-1, 1).unflatten(0, (-1, columns))
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return Image.fromarray(((sheet + 1) * 127.5).round().byte().cpu().numpy())


def whiten(model: AutoencoderKL, latents: Tensor) -> Tensor:
    """Turns and stretches the channels of a VAE's latents so that `latents` (B, C, h, w), its own, get unit covariance,
    and gives these; what it restores stays the same. Without it colour alone is most of their variance, and small
    parts drown in noise that leaves the rest plain to see."""
    channels = latents.shape[1]
    values, axes = torch.linalg.eigh(torch.cov(latents.transpose(0, 1).flatten(1).double()))
    there, back = (axes * values**power @ axes.T for power in (-0.5, 0.5))
    last, first = model.encoder.conv_out, model.decoder.conv_in
    with torch.no_grad():
        for means in (last.weight[:channels], last.bias[:channels]):  # the rest are their log-variances
            means.copy_(torch.einsum("ij,j...->i...", there, means.double()))
        first.weight.copy_(torch.einsum("ojkl,ji->oikl", first.weight.double(), back))
    return torch.einsum("ij,bjhw->bihw", there, latents.double()).float()


class VaePart:
    """An AutoencoderKL of FLUX's form at small size: 64 px become latents of 8 x 8 x 16, 128 px of 16 x 16 x 16. With
    `decoder_only` its latents stay as they are, and what was trained on them stays right; the decoder then also sees
    latents with a little noise, as a transformer's are never quite the encoder's."""

    def __init__(
        self,
        size: int = 64,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        batch: int | None = None,
        rate: float | None = None,
        decoder_only: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.name = "decoder" if decoder_only else "vae"
        self.schedule = Schedule(batch=batch or 16, rate=rate or 1.5e-3, warmup=200, ema=0.998, decay=0.0)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=8,
            sample_size=size,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        if start is not None:
            model = read_start(AutoencoderKL, start / "vae")
        model.encoder.requires_grad_(not decoder_only)
        self.model = model.float().to(device, memory_format=torch.channels_last)
        self._device, self._size, self._seed, self._decoder_only = device, size, seed, decoder_only
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=8, reuse=3, seed=seed)

    def _make(self, index: int) -> dict[str, Tensor]:
        return {"pixels": draw_labelled(CHUNK, chunk_seed(1, self._seed, index), self._size, self._device)["pixels"]}

    def loss(self, step: int) -> Tensor:
        """Mean squared and absolute error of the reconstruction, and a light pull of the latents to a unit Gaussian: a
        constant where only the decoder is trained."""
        pixels = to_unit(self._pool.batch(step)["pixels"]).to(self._device, memory_format=torch.channels_last)
        latent = self.model.encode(pixels).latent_dist
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(latent.mean.shape, generator=generator).to(self._device)
        deviation = latent.std
        if self._decoder_only:
            shares = torch.rand(len(pixels), 1, 1, 1, generator=generator).to(self._device)
            deviation = LATENT_NOISE * shares / self.model.config.scaling_factor
        restored = self.model.decode(latent.mean + deviation * noise).sample.float()
        error = F.mse_loss(restored, pixels) + 0.05 * F.l1_loss(restored, pixels)
        gaussian = 0.5 * (latent.mean.float() ** 2 + latent.var.float() - 1 - latent.logvar.float()).mean()
        return error + 3e-5 * gaussian

    def grid(self, model: nn.Module) -> Image.Image:
        """Held-out renders above, their round trips below."""
        pixels = to_unit(draw_labelled(16, 7, self._size, self._device, held_out=True)["pixels"])
        return tile(torch.cat([pixels, model.decode(model.encode(pixels).latent_dist.mean).sample]), 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `vae/` and a linear preview map beside it; the latents' channels are made uncorrelated over
        training renders, with mean 0 and deviation 1 over all of them, unless only the decoder was trained."""
        model = copy.deepcopy(model)
        pixels = to_unit(draw_labelled(CHUNK, 1_000_000, self._size, self._device)["pixels"])
        latents = torch.cat([model.encode(part).latent_dist.mean.float() for part in pixels.split(32)])
        if not self._decoder_only:
            latents = whiten(model, latents)
            model.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
        shift, scale = model.config.shift_factor, model.config.scaling_factor
        save_bf16(model, folder / "vae")
        fitted = fit_preview((latents - shift) * scale, pixels, patch=2 ** (len(model.config.block_out_channels) - 1))
        with whole(folder / "vae" / PREVIEW, f"go on with --resume {folder}") as new:
            save_file(fitted.state_dict(), new)


class _Coached(nn.Module):
    """The probe with a helper head, which is not kept, that tells what is where: it finds small parts much sooner."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe
        self.cells = nn.Conv2d(probe.config["widths"][1], MATERIALS + 1, 1)


class ProbePart:
    """The probe, on augmented renders, every second of them after the round trip through `vae`, as what it will
    read."""

    name = "probe"

    def __init__(
        self,
        vae: AutoencoderKL,
        size: int = 64,  # of the pictures that the vae is to restore; the probe sees them at its own
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.schedule = Schedule(batch=batch or 64, rate=rate or 2e-3, ema=0.998, decay=0.02)
        model = Probe() if start is None else read_start(Probe, start / "probe")
        self._seen = model.config["size"]
        self.model = _Coached(model.float()).to(device, memory_format=torch.channels_last)
        self._vae = Vae(vae.to(device).eval().requires_grad_(False))
        self._device, self._size, self._seed = device, size, seed
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=16, reuse=12, seed=seed)

    def _make(self, index: int) -> dict[str, Tensor]:
        chunk = draw_labelled(CHUNK, chunk_seed(2, self._seed, index), self._size, self._device)
        for rows in torch.arange(0, CHUNK, 2).split(32):
            chunk["pixels"][rows] = to_bytes((self._vae.restored(to_unit(chunk["pixels"][rows])) + 1) / 2)
        seen = [at_size(to_unit(part), self._seen) for part in chunk["pixels"].split(64)]
        return chunk | {"pixels": to_bytes((torch.cat(seen) + 1) / 2)}

    def loss(self, step: int) -> Tensor:
        """See `probe_loss` and `build_loss`; beside them what the helper head gets wrong."""
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        generator = torch.Generator().manual_seed(step)
        pixels, cells = augment(to_unit(batch["pixels"]), batch["cells"].float() / 255, generator)
        coarse = self.model.probe.coarse(pixels.contiguous(memory_format=torch.channels_last))
        shares = F.adaptive_avg_pool2d(cells, coarse.shape[-2:])
        where = F.binary_cross_entropy_with_logits(self.model.cells(coarse).float(), shares)
        out = self.model.probe.judge(coarse)
        return probe_loss(out, batch) + build_loss(out, batch) + 10 * where

    def grid(self, model: nn.Module) -> Image.Image:
        """What the probe is shown: augmented renders."""
        batch = self._pool.batch(0)
        return tile(augment(to_unit(batch["pixels"]), batch["cells"].float(), torch.Generator().manual_seed(0))[0], 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `probe/`."""
        save_bf16(model.probe, folder / "probe")
