"""Profiles: which checkpoints are loaded, how, and with which defaults. A variant is a row of PROFILES."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..request import Limits, RequestError
from .mllm import Template

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One row. `folder` holds mllm, aggregation, transformer and vae side by side; `shift` is the schedule's mu, None =
    by token count as FLUX does; `tau1`, `tau2` are the stage borders in t; `ids` the scheme of reference positions;
    `square` whether references are brought to a square; `dtype` what the DiT computes in; `mllm_8bit` LLM.int8."""

    name: str
    title: str
    folder: Path
    template: Template
    device: str
    dtype: str
    mllm_8bit: bool
    size: int
    steps: int
    cfg: float
    guidance: float
    balance: tuple[float, float, float]
    uncond: str
    late_text: str
    shift: float | None
    tau1: float
    tau2: float
    ids: str
    square: bool
    limits: Limits
    licence: str


PROFILES: dict[str, Profile] = {
    "plush": Profile(
        name="plush",
        title="Plush toys (embedded, runs on any CPU)",
        folder=ASSETS / "plush",
        template=Template(),
        device="auto",
        dtype="float32",
        mllm_8bit=False,
        size=64,
        steps=25,
        cfg=2.5,
        guidance=1.0,
        balance=(0.0, 0.5, 1.0),
        uncond="lean",
        late_text="drop",
        shift=0.0,
        tau1=0.54,  # equal signal to noise per picture with the paper's .95 and .85 at 4096 tokens
        tau2=0.26,
        ids="kontext",
        square=True,
        limits=Limits(steps=100, references=1, least_size=64, most_size=64, reference=64),
        licence="Apache-2.0, trained by this project",
    ),
}


def find_profile(name: str) -> Profile:
    """The row of that name; raises RequestError with the names there are."""
    if name not in PROFILES:
        raise RequestError("profile", value=repr(name), choices=", ".join(PROFILES))
    return PROFILES[name]
