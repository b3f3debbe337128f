"""The two phases of the method: first the DiT learns to draw from MLLM tokens alone, then from MLLM and VAE tokens
together.

The frozen parts' outputs (hidden states of all layers, latents of reference and target) are computed once a sample
and kept in the pool; aggregation and DiT train on them.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from PIL import Image
from torch import Tensor, nn

from ..balance import Weights
from ..models.aggregation import Aggregation, Block
from ..models.dit import Conditioning, Dit, Identity
from ..models.mllm import Mllm
from ..models.sources import LoadError
from ..models.vae import Vae
from ..plush.render import MATERIALS, render
from ..sampling import denoise, grid_ids, pack, schedule, unpack
from .critic import Critic
from .data import SCENE, Chunk, Pool, chunk_seed, draw_cases, to_unit, truth, wanted
from .helpers import Helper
from .loop import Schedule, read_start, save_bf16
from .objective import Dropout, Kept, draw_kept, draw_times, flow_loss, interpolate
from .parts import tile

CHUNK = 256
LONGEST = 40  # prompt tokens kept in the pool
LAYERS = ("early", "middle", "late", "all")  # thirds of the MLLM's layers
SUBJECT = 8.0  # weight of what shows the toy beside 1 for the place, which fills most of a picture and is learnt first
DEEPEST = 38  # single blocks of FLUX.1-dev
HELP, READ = 0.1, 0.05  # weight of the helper's loss beside that of the flow, over targets and over references,
JUDGED = 0.03  # and of the critic's: with 0.1 colours and patterns suffered
DOUBT = 0.4  # the most noise in what the critic is shown, in deviations of the latents; without it codes would pass


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What the ablations change: the aggregation's `mode`; which of the MLLM's `layers` it pools, a key of LAYERS; how
    often MLLM and VAE tokens are dropped by themselves; and the pictures' side in pixels, None = the profile's."""

    mode: str = "dla"
    layers: str = "all"
    dropout: tuple[float, float] = Dropout.each
    size: int | None = None

    def check(self, aggregation: Aggregation, folder: Path) -> None:
        """Raises LoadError where a trained `aggregation`, from `folder`, is not what this asks for."""
        config = aggregation.config
        if (config["mode"], config["read"]) != (self.mode, self.read(config["layers"])):
            raise LoadError(
                f"The aggregation in {folder} was trained otherwise than with --mode {self.mode} --layers "
                f"{self.layers}, and stays what it is. Give its own, or leave --resume out to start afresh."
            )

    def read(self, states: int) -> list[int] | None:
        """The numbers of the hidden states pooled, of `states` with the embeddings; None = all."""
        if self.layers == "all":
            return None
        third = (states - 1) // 3
        first = 1 + third * LAYERS.index(self.layers)
        return list(range(first, first + third))


class Denoiser(nn.Module):
    """What the two phases train: aggregation and transformer, and beside them the helper on what the transformer
    knows half-way of target or reference, pictures of `tokens` tokens."""

    def __init__(self, aggregation: Aggregation, transformer: FluxTransformer2DModel, tokens: int) -> None:
        super().__init__()
        self.aggregation, self.transformer = aggregation, transformer
        self.helper = Helper(math.isqrt(tokens), transformer.inner_dim, tokens * transformer.inner_dim)


def make_denoiser(mllm: Mllm, tokens: int, variant: Variant) -> Denoiser:
    """The embedded model's aggregation and a FLUX of 2 + 4 blocks; AdaLN and output start at zero."""
    aggregation = Aggregation(
        layers=mllm.layers, width=mllm.width, text_width=192, pooled_width=192, heads=4, refiner_heads=6,
        mlp_ratio=1.5, mode=variant.mode, read=variant.read(mllm.layers),
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=32, num_attention_heads=6,
        joint_attention_dim=192, pooled_projection_dim=192, guidance_embeds=False, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    for name, module in transformer.named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear", "proj_out")):
            if name.endswith("proj_out") and name != "proj_out":
                continue
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return Denoiser(aggregation, transformer, tokens)


def deepen(transformer: FluxTransformer2DModel, singles: int) -> FluxTransformer2DModel:
    """A transformer with `singles` single blocks that draws what the given one draws: each of its blocks is followed by
    copies that add nothing at first, their gates at zero. Raises LoadError for fewer blocks than it has, or too
    many."""
    old = transformer.single_transformer_blocks
    if not len(old) <= singles <= DEEPEST:
        raise LoadError(
            f"The transformer has {len(old)} single blocks, which cannot become {singles}. "
            f"Ask for {len(old)} to {DEEPEST}."
        )
    sources = [number * len(old) // singles for number in range(singles)]
    deeper = copy.deepcopy(transformer)
    deeper.register_to_config(num_single_layers=singles)
    deeper.single_transformer_blocks = nn.ModuleList(copy.deepcopy(old[source]) for source in sources)
    for number in range(1, singles):
        if sources[number] == sources[number - 1]:  # a copy
            norm = deeper.single_transformer_blocks[number].norm.linear
            for rows in (norm.weight, norm.bias):
                nn.init.zeros_(rows.detach()[-transformer.inner_dim :])  # the last third is the gate
    return deeper


def _of(name: str, batch: Chunk) -> Chunk:
    """What stands in a batch under `name` and a space, without them."""
    return {key.removeprefix(f"{name} "): value for key, value in batch.items() if key.startswith(f"{name} ")}


def subject_weights(cells: Tensor, side: int, channels: int) -> Tensor:
    """How much each number of packed latents (B, N, 4 * channels) of side x side counts in the flow's loss: from 1
    where the place shows to SUBJECT where the toy fills the latent's patch. `cells` uint8 as from `truth`."""
    shown = nn.functional.adaptive_avg_pool2d(cells[:, :MATERIALS].float().sum(1, keepdim=True) / 255, side)
    return pack(1 + (SUBJECT - 1) * shown.expand(-1, channels, -1, -1))


class PhasePart:
    """One phase of the method's training on the embedded world. `mllm` and `vae` are frozen, and so is `critic`, before
    which the phase is trained in the helper's place where one is given; `singles` deepens the transformer, see
    `deepen`."""

    def __init__(
        self,
        phase: int,
        mllm: Mllm,
        vae: AutoencoderKL,
        *,
        size: int = 64,
        mu: float = 0.0,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        variant: Variant | None = None,
        batch: int | None = None,
        rate: float | None = None,
        compiled: bool = False,
        singles: int | None = None,
        critic: Critic | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.schedule = Schedule(batch=batch or 64, rate=rate or 1e-3, warmup=200, ema=0.999, decay=0.01)
        self.name, self.phase = f"phase{phase}", phase
        self._mu, self._size, self._device, self._seed = mu, size, device, seed
        self._mllm, self._vae = mllm, Vae(vae)
        self._mllm.model.to(device).eval().requires_grad_(False)
        if mllm.framing:
            mllm.framing.to(device).eval().requires_grad_(False)
        vae.to(device).eval().requires_grad_(False)
        self._critic = None if critic is None else critic.to(device).eval().requires_grad_(False)
        variant = variant or Variant()
        self._dropout = Dropout(each=variant.dropout)
        self._ids = grid_ids(size // 16, size // 16)
        self._ref_ids = grid_ids(size // 16, size // 16, index=1)
        model = make_denoiser(mllm, len(self._ids), variant)
        if start is not None:
            model = Denoiser(
                read_start(Aggregation, start / "aggregation"),
                read_start(FluxTransformer2DModel, start / "transformer"),
                len(self._ids),
            )
            variant.check(model.aggregation, start)
        if singles is not None:
            model.transformer = deepen(model.transformer, singles)
        if device == "cpu":  # SDPA's backward on a CPU takes twice the time of the plain formula at this size
            Dit(model.transformer)  # whose attention it is, not that which it replaces
            with attention_backend():  # else it would be every model's of this process
                model.transformer.set_attention_backend("_native_math")
        self.model = model.to(device)
        if compiled:  # block by block, since a block is compiled once for all its repetitions
            for module in self.model.modules():
                if isinstance(module, FluxTransformerBlock | FluxSingleTransformerBlock | Block):
                    module.forward = torch.compile(module.forward, dynamic=True)  # not its hooks
        self._chunk = max(CHUNK, self.schedule.batch)
        self._pool = Pool(
            self._make, batch=self.schedule.batch, chunk=self._chunk, window=24, reuse=6, seed=seed, alike="valid"
        )

    def _make(self, index: int) -> Chunk:
        return self.encode(self._chunk, chunk_seed(4, self._seed, index))

    @torch.inference_mode()
    def encode(self, count: int, seed: int, held_out: bool = False) -> Chunk:
        """Cases as the frozen parts see them: `hidden` (B, L, M+1, D) bf16, `vision`, `valid`, packed latents `ref`
        and `x0`; the truth of each target, and of each reference, its names after "shown ", for the helper; and what
        of the target's can be known, for the critic, its names after "wanted "."""
        case = draw_cases(count, seed, held_out)
        toys = case.toys.to(self._device)
        drawn = [render(toys, scenes.to(self._device), self._size) for scenes in (case.references, case.targets)]
        reference, target = (to_unit((one.pixels * 255).round()) for one in drawn)
        parts = []
        for rows in torch.arange(count).split(64 if self._device == "cpu" else 256):
            prompts = [case.wishes[i].text for i in rows.tolist()]
            shown = self._mllm.view_tensors(reference[rows.to(self._device)])
            read = self._mllm.encode_batch(shown, prompts)
            pad = self._mllm.config.image_seq_length + LONGEST - read.hidden.shape[1]  # below 0 it crops
            parts.append({
                "hidden": nn.functional.pad(read.hidden.bfloat16(), (0, 0, 0, 0, 0, pad)),
                "valid": nn.functional.pad(read.valid, (0, pad)),
                "vision": read.vision.bfloat16(),
                "ref": pack(self._vae.encode(reference[rows.to(self._device)])).bfloat16(),
                "x0": pack(self._vae.encode(target[rows.to(self._device)])).bfloat16(),
            })  # fmt: skip
        seen = {key: torch.cat([part[key] for part in parts]).clone() for key in parts[0]}
        told = truth(toys, case.targets, drawn[1])
        asked = wanted(case, drawn[0], told)
        shown = truth(toys, case.references, drawn[0]) | {"proportions": asked["proportions"]}
        for name, those in (("wanted", asked), ("shown", shown)):
            seen |= {f"{name} {key}": value for key, value in those.items()}
        return seen | told

    def loss(self, step: int) -> Tensor:
        """Rectified flow on one batch, all of it with the same conditions kept (see objective.py). Beside it what the
        helper gets wrong of the target; or, before a critic, what that gets wrong in the picture that is foreseen, and
        the helper of the reference."""
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        kept = draw_kept(self.phase, torch.Generator().manual_seed(step), self._dropout)  # the same in all processes
        generator = torch.Generator(self._device).manual_seed(chunk_seed(7, self._seed, step))
        x0 = batch["x0"].float()
        t = draw_times(len(x0), self._mu, generator)
        noise = torch.randn(x0.shape, generator=generator, device=self._device)
        img = interpolate(x0, noise, t)
        known: list[Tensor] = []
        blocks = self.model.transformer.single_transformer_blocks  # the second half is left to turn it into a velocity
        listening = blocks[len(blocks) // 2].register_forward_pre_hook(
            lambda _, __, given: known.append(given["hidden_states"]), with_kwargs=True
        )
        velocity = self._velocity(self.model, batch, kept.text)(
            img, t, Weights(mllm=float(kept.mllm), vae=float(kept.vae))
        )
        listening.remove()
        weight = subject_weights(batch["cells"], self._size // self._vae.factor, self._vae.channels)
        flow = flow_loss(velocity, x0, noise, weight)
        drawn, reference = known[0][:, : x0.shape[1]], known[0][:, x0.shape[1] :]
        if self._critic is None:
            return flow + HELP * self.model.helper.loss(drawn, drawn, batch)
        if kept.vae:
            flow = flow + READ * self.model.helper.loss(reference, reference, _of("shown", batch))
        if not kept.mllm and not kept.vae:
            return flow
        return flow + JUDGED * self._judged(img - t[:, None, None] * velocity.float(), batch, kept, generator)

    def _judged(self, foreseen: Tensor, batch: Chunk, kept: Kept, generator: torch.Generator) -> Tensor:
        """What the critic gets wrong in packed latents `foreseen` of what the conditions that were kept tell of."""
        side = self._size // self._vae.factor
        latents = unpack(foreseen, side, side)
        noise = torch.randn(latents.shape, generator=generator, device=self._device)
        doubt = DOUBT * torch.rand(len(latents), 1, 1, 1, generator=generator, device=self._device)
        asked = _of("wanted", batch)
        if not (kept.mllm and kept.text):
            asked |= {name: torch.full_like(asked[name], -1) for name in SCENE}
            asked["azimuth"] = torch.full_like(asked["azimuth"], torch.nan)
        return self._critic.loss(latents + doubt * noise, asked)

    def _velocity(self, model: Denoiser, batch: Chunk, text: bool = True):  # noqa: ANN202
        """A function (img, t, weights) -> velocity with the batch's conditions, aggregated on need."""
        pictures = self._mllm.config.image_seq_length
        longest = int(batch["valid"].sum(1).max()) if text else pictures
        longest += -longest % 8  # what fused attention wants
        image = torch.arange(longest, device=self._device) < pictures
        identity = Identity(ref=batch["ref"].float(), ref_ids=self._ref_ids)
        dit = Dit(model.transformer)

        def conditioning(needed: bool) -> Conditioning:
            null = model.aggregation.null_vec
            if not needed:
                empty = batch["ref"].new_zeros(len(batch["ref"]), 0, model.transformer.config.joint_attention_dim)
                return Conditioning(txt=empty, image=image[:0], vec=null.expand(len(empty), -1), null_vec=null)
            valid = batch["valid"][:, :longest]
            out = model.aggregation(batch["hidden"][:, :longest].float(), image, batch["vision"].float(), valid)
            return Conditioning(txt=out.txt, image=out.image, vec=out.vec, null_vec=null, valid=valid)

        def velocity(img: Tensor, t: Tensor | float, weights: Weights) -> Tensor:
            return dit.velocity(
                img, self._ids, t, conditioning=conditioning(weights.mllm > 0), identity=identity, weights=weights
            )

        return velocity

    @torch.inference_mode()
    def grid(self, model: Denoiser) -> Image.Image:
        """Held-out references above, what is drawn from them and their prompts below, the truth at the bottom."""
        batch = {key: value.to(self._device) for key, value in self.encode(16, 7, held_out=True).items()}
        velocity = self._velocity(model, batch)
        with_both = Weights(mllm=1.0, vae=float(self.phase == 2))

        def guided(img: Tensor, index: int, t: float) -> tuple[Tensor, Tensor]:
            free, kept = velocity(img, t, Weights(mllm=0.0, vae=0.0)), velocity(img, t, with_both)
            return free + 2.5 * (kept - free), kept

        noise = torch.randn(batch["x0"].shape, generator=torch.Generator().manual_seed(0)).to(self._device)
        *_, last = denoise(noise, schedule(20, self._mu), guided)
        side = self._size // self._vae.factor
        rows = [batch["ref"].float(), last.img, batch["x0"].float()]
        return tile(torch.cat([self._vae.decode(unpack(row, side, side)) for row in rows]), 16)

    def save(self, model: Denoiser, folder: Path) -> None:
        """Writes `aggregation/` and `transformer/`."""
        save_bf16(model.aggregation, folder / "aggregation")
        save_bf16(model.transformer, folder / "transformer")
