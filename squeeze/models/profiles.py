"""Profiles: which checkpoints are loaded, how, and with which defaults. A variant is a row of PROFILES."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from ..images import padded, squared
from ..request import Limits, RequestError
from ..sampling import noisier
from .mllm import Template

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a part's files lie on the hub: a folder of a repository at a commit."""

    repo: str
    revision: str
    subfolder: str = ""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One row.

    Parts: `folder` holds them side by side (see sources.py); where it is None they come from the hub, as `sources` say
    by the part's name. `mllm` and `dit` name the classes that read and draw (parts.MLLMS, parts.DITS); `adapter`
    whether an adapter's folder is needed beside them (adapter.py); `native` whether the MLLM's last state goes to the
    DiT as it is, without an aggregation; `framing` whether references are framed for the MLLM (framing.py); `mllm_8bit`
    LLM.int8; `dtype` what everything else computes in.

    Settings: `negative` the prompt that the unconditional branch reads under `uncond = full`, None for no MLLM tokens
    at all; `eta` how much of each step's noise is drawn anew; `shift` is the schedule's mu, None = by token count as
    FLUX does; `tau1`, `tau2` are the stage borders in t; `ids` the scheme of reference positions; `square` whether
    references are brought to a square, `at_target` whether to the proportions and the size of the picture that is
    drawn. What a row leaves out is the paper's, on a card; an adapter brings the borders that it was trained with.
    """

    name: str
    title: str
    folder: Path | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    mllm: str = "internvl"
    dit: str = "flux"
    adapter: bool = False
    native: bool = False
    framing: bool = False
    template: Template
    device: str = "cuda"
    dtype: str = "bfloat16"
    mllm_8bit: bool = True
    size: int = 1024
    steps: int
    cfg: float
    guidance: float = 1.0
    eta: float = 0.0
    balance: tuple[float, float, float]
    uncond: str = "lean"
    negative: str | None = None
    late_text: str = "drop"
    shift: float | None = None
    tau1: float = 0.95  # the paper's, for 4096 tokens
    tau2: float = 0.85
    ids: str = "kontext"
    square: bool = False
    at_target: bool = False
    limits: Limits
    licence: str

    def framed(self, picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
        """A clean reference in the shape that both models get it in; `size` is the drawn picture's width and height."""
        if self.at_target:
            width, height = size or (self.size, self.size)
            return padded(picture, width, height).resize((width, height), Image.Resampling.LANCZOS)
        return squared(picture) if self.square else picture

    def at(self, side: int) -> Profile:
        """The same row for squares of `side` pixels and no others: shift and stage borders have the same signal to
        noise a picture."""
        if side == self.size:
            return self
        times = side / self.size
        return replace(
            self, size=side, tau1=noisier(self.tau1, times), tau2=noisier(self.tau2, times),
            shift=None if self.shift is None else self.shift + math.log(times),
            limits=replace(self.limits, least_size=side, most_size=side, reference=side),
        )  # fmt: skip


INTERNVL = Source(repo="OpenGVLab/InternVL3-8B-hf", revision="259a3b64a14623c0ec91a045cb43f7c5af5fa6af")
FLUX = {"repo": "black-forest-labs/FLUX.1-dev", "revision": "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"}
LONGCAT = {"repo": "meituan-longcat/LongCat-Image-Edit", "revision": "7b54ef423aa7854be7861600024be5c56ab7875a"}

# What LongCat-Image-Edit was trained to read, word for word (diffusers' LongCatImageEditPipeline).
LONGCAT_SYSTEM = (
    "As an image editing expert, first analyze the content and attributes of the input image(s). Then, based on the "
    "user's editing instructions, clearly and precisely determine how to modify the given image(s), ensuring that only "
    "the specified parts are altered and all other aspects remain consistent with the original(s)."
)

PROFILES: dict[str, Profile] = {
    "plush": Profile(
        name="plush",
        title="Plush toys (embedded, runs on any CPU)",
        folder=ASSETS / "plush",
        framing=True,
        template=Template(),
        device="auto",
        dtype="float32",
        mllm_8bit=False,
        size=128,
        steps=25,
        cfg=2.0,  # the paper has 2.5; chosen on cases of their own, see README
        eta=1.0,  # chosen as CFG was, and by eye
        balance=(0.0, 0.5, 1.0),
        shift=0.693,  # twice the noise for twice the side, from no shift at 64 pixels
        tau1=0.70,  # equal signal to noise per picture with the paper's .95 at 4096 tokens;
        tau2=0.30,  # its .85 would be .41, where new noise still hides hats from steps that know no prompt
        square=True,
        limits=Limits(steps=100, references=1, least_size=128, most_size=128, reference=128),
        licence="Apache-2.0, trained by this project",
    ),
    "paper": Profile(
        name="paper",
        title="InternVL3-8B and FLUX.1-dev, the paper's size (needs an adapter and a CUDA card)",
        sources={
            "mllm": INTERNVL,
            "tokenizer": INTERNVL,
            "processor": INTERNVL,
            "transformer": Source(**FLUX, subfolder="transformer"),
            "vae": Source(**FLUX, subfolder="vae"),
        },
        adapter=True,
        template=Template(before="<|im_start|>user\n"),
        steps=25,
        cfg=2.5,
        balance=(0.0, 0.5, 1.0),
        limits=Limits(steps=100, references=1, least_size=256, most_size=1536, reference=512),
        licence=(
            "FLUX.1-dev under the FLUX.1 [dev] Non-Commercial License; InternVL3-8B and the adapter under their own"
        ),
    ),
    "longcat": Profile(
        name="longcat",
        title="LongCat-Image-Edit, real photos with public weights (needs a CUDA card)",
        sources={
            "mllm": Source(**LONGCAT, subfolder="text_encoder"),
            "tokenizer": Source(**LONGCAT, subfolder="tokenizer"),
            "processor": Source(**LONGCAT, subfolder="text_processor"),
            "transformer": Source(**LONGCAT, subfolder="transformer"),
            "vae": Source(**LONGCAT, subfolder="vae"),
        },
        mllm="qwen2_5_vl",
        dit="longcat",
        native=True,
        template=Template(
            before=f"<|im_start|>system\n{LONGCAT_SYSTEM}<|im_end|>\n<|im_start|>user\n",
            open="<|vision_start|>",
            close="<|vision_end|>",
        ),
        steps=50,
        cfg=4.5,
        balance=(0.5, 0.5, 0.5),  # everything in full at every step is what it was trained for
        uncond="full",
        negative="",
        square=True,
        at_target=True,
        limits=Limits(steps=100, references=1, least_size=256, most_size=1536, reference=1024),
        licence="LongCat-Image-Edit and its Qwen2.5-VL-7B under Apache-2.0",
    ),
}


def find_profile(name: str) -> Profile:
    """The row of that name; raises RequestError with the names there are."""
    if name not in PROFILES:
        raise RequestError("profile", value=repr(name), choices=", ".join(PROFILES))
    return PROFILES[name]
