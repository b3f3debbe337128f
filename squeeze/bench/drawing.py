"""The blocks about the denoising loop: against diffusers' own, with its levers, weights, previews and resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from torch import Tensor

from .. import balance
from ..images import to_picture
from ..models.dit import Dit
from ..models.kernels import lse_kernel
from ..models.loading import check_compiler, compile_blocks
from ..models.vae import PreviewMap, Vae
from ..sampling import unpack
from .flops import counted, formula, left_out
from .rows import DERIVED, Row, at_most, compared, equal, timed
from .scene import Bench, Scene, forwards, furthest, make_scene
from .sizes import SIZES, autoencoder, transformer
from .timing import interleaved, seconds

BOTH = (0.5, 0.5, 0.5)  # every token in every step
STAGES = balance.PRESETS["paper"]


def loop(bench: Bench) -> Iterator[Row]:
    """Our loop against FluxKontextPipeline: same transformer, attention and tokens, no guidance but the embedded."""
    scene = bench.scene
    sides = {
        "ours": lambda: scene.drawn(balance=BOTH, cfg=1.0)[-1],
        "FluxKontextPipeline": kontext(scene),
    }
    if not bench.card:
        yield at_most("ours and FluxKontextPipeline: largest difference of the latents",
                      furthest(*(side() for side in sides.values())), 1e-4)  # fmt: skip
        for name, side in sides.items():
            with forwards(scene.dit) as seen:
                side()
            yield equal(f"forwards of {name}", len(seen), scene.request.steps)
    times = interleaved(sides, bench.clock, bench.device)
    yield compared("whole loop", times, *sides, bench.card, most=1.02)
    yield from timed("whole loop", times, bench.card)


def kontext(scene: Scene) -> Callable[[], Tensor]:
    """The same drawing by diffusers' pipeline, everything encoded as ours; gives the latent (1, N, 4 C) on the host."""
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), transformer=scene.dit.model, vae=None,
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.latent_channels = scene.dit.channels // 4  # without a VAE it takes FLUX's
    dtype, request = scene.dit.model.dtype, scene.request
    reference = unpack(scene.identity.ref, 2 * scene.reference, 2 * scene.reference)

    def draw() -> Tensor:
        return pipeline(
            image=reference, prompt_embeds=scene.conditioning.txt.to(dtype), latents=scene.noise,
            pooled_prompt_embeds=scene.conditioning.vec.to(dtype), guidance_scale=request.guidance,
            num_inference_steps=request.steps, height=request.height, width=request.width,
            max_area=request.height * request.width, output_type="latent",
        ).images.cpu()  # fmt: skip

    return draw


def stages(bench: Bench) -> Iterator[Row]:
    """Stages that drop tokens and a lean unconditional branch against two passes with every token."""
    scene, steps = bench.scene, bench.scene.request.steps
    sides = {
        "naive": lambda: scene.drawn(balance=BOTH, uncond="full"),
        "ours": lambda: scene.drawn(balance=STAGES, uncond="lean"),
    }
    planned = {"naive": _planned(scene, BOTH, "full"), "ours": _planned(scene, STAGES, "lean")}
    for name, side in sides.items():
        with forwards(scene.dit) as seen:
            side()
        wrong = sum(a != b for a, b in zip(seen, planned[name], strict=False)) + abs(len(seen) - len(planned[name]))
        first = 0
        for stage, count in zip(balance.STAGES, scene.counts, strict=True):
            found = seen[2 * first : 2 * (first + count)]
            yield equal(f"forwards of {name} in stage {stage}", len(found), 2 * count)
            first += count
        yield equal(f"forwards of {name} with other tokens than planned", wrong, 0)
    cost = {name: sum(formula(scene.dit.model, tokens) for tokens in plan) for name, plan in planned.items()}
    yield Row(what="FLOPs of naive / ours, by the formula", kind=DERIVED, value=cost["naive"] / cost["ours"], unit="x")
    times = interleaved(sides, bench.clock, bench.device, warm=True)  # their forwards were counted
    yield compared(f"{steps} steps with CFG", times, *sides, bench.card, least=1.4)
    yield from timed(f"{steps} steps with CFG", times, bench.card)


def compiled(bench: Bench) -> Iterator[Row]:
    """The drawing of `stages` with the transformer's blocks compiled against the same without; and again after weights
    between 0 and 1, whose attention is not compiled, so that every block has forms more to choose from."""
    scene, steps = bench.scene, bench.scene.request.steps
    asked = {"balance": STAGES, "uncond": "lean"}
    check_compiler(bench.device)
    compile_blocks(scene.dit.model)

    def uncompiled() -> Tensor:
        with torch.compiler.set_stance("force_eager"):
            return scene.drawn(**asked)[-1]

    sides = {"uncompiled": uncompiled, "compiled": lambda: scene.drawn(**asked)[-1]}
    try:
        for left, met, after in ((2, STAGES, ""), (1, (0.25, 0.5, 0.75), " once weights between 0 and 1 were met")):
            bench.clock.part(left)
            what = f"{steps} steps with CFG{after}"
            first = seconds(partial(scene.drawn, **asked | {"balance": met}), bench.device)
            if bench.card:
                yield Row(what=f"{what}: the first with balance {met}, with compiling", value=first, unit="s")
            else:
                apart = furthest(*(side() for side in sides.values()))
                yield at_most(f"{what}: largest difference of the latents", apart, 1e-4)
            times = interleaved(sides, bench.clock, bench.device, warm=not bench.card)
            yield compared(what, times, *sides, bench.card)
            yield from timed(what, times, bench.card)
    finally:
        bench.release()  # no other block is to find it compiled


def _planned(scene: Scene, balances: tuple[float, float, float], uncond: str) -> list[int]:
    """The tokens of every forward, the conditional and the unconditional one of each step in turn."""
    image, said, seen = scene.grid**2, scene.conditioning.txt.shape[1], scene.reference**2
    planned = []
    for count, weighed in zip(scene.counts, balances, strict=True):
        weights = balance.weights(weighed)
        kept = image + said * (weights.mllm > 0) + seen * (weights.vae > 0)
        planned += [kept, kept if uncond == "full" else image] * count
    return planned


def weights(bench: Bench) -> Iterator[Row]:
    """What a step costs where a group's weight is between 0 and 1, against weights of 1 with the same tokens."""
    scene, weighing = bench.scene, bench.scene.dit.weighing

    def step(balanced: float, merge: bool | None = None) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            weighing.merge = merge
            try:
                return one_step(scene, balance.weights(balanced))
            finally:
                weighing.merge = None

        return forward

    model = scene.dit.model
    kernel = lse_kernel(bench.device, model.dtype, model.config.attention_head_dim).__name__.strip("_")
    notes = {"merged": f"Kernel {kernel}.", "masked": ""}
    used = "merged" if bench.card else "masked"  # what weighted_attention takes by itself
    notes[used] = f"What the program uses here. {notes[used]}".strip()
    for left, (balanced, group) in ((2, (0.75, "MLLM")), (1, (0.25, "reference"))):
        bench.clock.part(left)
        if not bench.card:
            apart = furthest(step(balanced, True)(), step(balanced, False)())
            yield at_most(f"{group} tokens at 0.5: largest difference of merged and masked attention", apart, 1e-5)
        sides = {"merged": step(balanced, True), "masked": step(balanced, False), "weight 1": step(0.5)}
        times = interleaved(sides, bench.clock, bench.device)
        what = f"step, {group} tokens at 0.5"
        for name, note in notes.items():
            most = 1.04 if name == used else None
            yield compared(what, times, name, "weight 1", bench.card, most=most, note=note)
        yield from timed(what, times, bench.card)


@torch.inference_mode()
def one_step(scene: Scene, weights: balance.Weights) -> Tensor:
    """The velocity (1, N, 4 C) of one forward."""
    return scene.dit.velocity(
        scene.noise, scene.img_ids, 0.9, conditioning=scene.conditioning, identity=scene.identity, weights=weights,
        guidance=scene.request.guidance,
    )  # fmt: skip


def previews(bench: Bench) -> Iterator[Row]:
    """A preview's share of a step with CFG: the fitted map and the picture on the host."""
    scene, side = bench.scene, 2 * bench.scene.grid
    generator = torch.Generator().manual_seed(2)
    channels = scene.dit.channels // 4
    seen = PreviewMap(torch.randn(192, channels, 3, 3, generator=generator), torch.zeros(192)).to(bench.device)

    sides = {
        "preview": lambda: to_picture(seen(unpack(scene.noise, side, side))),
        "step": lambda: [one_step(scene, balance.Weights(mllm=kept, vae=kept)) for kept in (1.0, 0.0)],
    }
    times = interleaved(sides, bench.clock, bench.device)
    yield compared(f"{8 * side} px", times, *sides, bench.card, most=0.01)
    yield from timed(f"{8 * side} px", times, bench.card)


def resume(bench: Bench) -> Iterator[Row]:
    """Going on from the last stage border against the whole drawing, both with the picture decoded."""
    scene, side = bench.scene, 2 * bench.scene.grid
    vae = Vae(autoencoder(bench.size, bench.device))
    border = sum(scene.counts[:2])
    asked = {"balance": (0.0, 0.5, 0.75), "uncond": "lean"}
    kept = scene.drawn(**asked | {"balance": STAGES})[border - 1]

    @torch.inference_mode()
    def picture(latents: list[Tensor]) -> None:
        to_picture(vae.decode(unpack(latents[-1], side, side)))

    apart = furthest(scene.drawn(border, kept, **asked)[-1], scene.drawn(**asked)[-1])
    yield at_most("latents resumed and uninterrupted: largest difference", apart, 0)
    sides = {
        "resumed": lambda: picture(scene.drawn(border, kept, **asked)),
        "whole": lambda: picture(scene.drawn(**asked)),
    }
    times = interleaved(sides, bench.clock, bench.device)
    what = f"last balance changed, {scene.request.steps - border} of {scene.request.steps} steps"
    yield compared(what, times, *sides, bench.card, most=0.7, note="Reading left out: it is cached.")
    yield from timed(what, times, bench.card)


def flops(bench: Bench) -> Iterator[Row]:
    """torch's count of matrix products against the formula, at this size and, on shapes without weights, the full."""
    for size in dict.fromkeys((bench.size.name, "full")):
        meta = torch.device("meta")
        scene = make_scene(SIZES[size], Dit(transformer(SIZES[size], meta)), meta)
        for stage, weighed in zip(balance.STAGES, STAGES, strict=True):
            bench.clock.check()
            yield from _counted(scene, f"{size} size, stage {stage}", balance.weights(weighed))


def _counted(scene: Scene, what: str, weighed: balance.Weights) -> Iterator[Row]:
    text = scene.conditioning.txt.shape[1] * (weighed.mllm > 0)
    pictures = scene.grid**2 + scene.reference**2 * (weighed.vae > 0)
    parts = (scene.noise, scene.img_ids, scene.conditioning, scene.identity, weighed)
    total, short = counted(scene.dit, *parts), formula(scene.dit.model, text + pictures)
    rest = left_out(scene.dit.model, text, pictures)
    yield Row(what=f"{what}: TFLOP of a forward", value=total / 1e12, unit="TFLOP", note="Counted by torch.")
    yield equal(f"{what}: FLOPs counted less formula less what it leaves out", total - short - rest, 0)
    note = "Embedders, output, modulations: see flops.py."
    yield Row(what=f"{what}: share that the formula leaves out", value=rest / total, kind=DERIVED, note=note)
