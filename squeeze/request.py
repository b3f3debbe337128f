"""What was asked for, checked once. Every mistake a user can make becomes a `RequestError` with value and remedy."""

from __future__ import annotations

import reprlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .balance import STAGES, stage_of

MAX_SEED = 2**53 - 1  # the largest integer a browser's number holds exactly
JOINERS = "\u200c\u200d\ufe0f"  # invisible, but they join emoji, letters of Persian, or choose an emoji's form
CHOICES = {"uncond": ("lean", "full"), "late_text": ("drop", "keep")}
MOST_NAMED = 200  # characters of a value that a sentence names
TAGS = frozenset(map(chr, range(0xE0020, 0xE0080)))  # spell the flags of regions

SENTENCES: dict[str, str] = {
    "no_reference": "There is no picture of the subject. Upload one, paste one, or pick an example.",
    "too_many_references": "There are {value} reference pictures, more than this profile takes: {limit}. Remove some.",
    "not_a_picture": "{value} could not be read as a picture. Use a PNG, JPEG, WEBP, AVIF, GIF, BMP or TIFF.",
    "no_file": "There is no file {value}. Choose a picture that is there.",
    "gone": "{value} is no longer here: an upload is deleted when it has not been used for a while. Upload it again.",
    "damaged_picture": "{value} is damaged or cut short. Save it again and retry.",
    "picture_too_large": "{value} has {pixels:,} pixels; the limit is {limit:,}. Shrink it and retry.",
    "file_too_large": "{value} is {size} MB; the limit is {limit} MB. Shrink it and retry.",
    "crop": "A crop must be left, top, right, bottom from 0 to 1, left below right and top below bottom, not {value}.",
    "small_crop": "The crop leaves {value} pixels; at least {limit} are needed each way. Choose a larger part.",
    "empty_prompt": "The prompt is empty. Say where the subject should be, for example: on the beach.",
    "long_prompt": "The prompt has {value:,} characters; the limit is {limit:,}. Shorten it.",
    "prompt_tokens": "The prompt has {value:,} tokens; the language model of this profile reads {limit:,}. Shorten it.",
    "steps": "Steps must be a whole number from 1 to {limit}, not {value}.",
    "cfg": "CFG must be a number from 1 to {limit}, not {value}.",
    "guidance": "Guidance must be a number from 0 to {limit}, not {value}.",
    "eta": "Eta must be a number from 0 to {limit}, not {value}.",
    "seed": "The seed must be a whole number from 0 to {limit}, not {value}.",
    "balance": "The balance of stage {stage} must be a number from 0 (semantics) to 1 (identity), not {value}.",
    "balance_length": "There are three stages, so the balance needs three numbers like 0,0.5,1, not {value}.",
    "stage_steps": "The steps of the three stages must be three whole numbers that add up to {total}, not {value}.",
    "size": "{name} must be a multiple of {multiple} from {least} to {limit} pixels, not {value}.",
    "option": "{name} must be one of {choices}, not {value}.",
    "profile": "There is no profile named {value}. Choose one of {choices}.",
    "out_suffix": "The picture is a PNG, so its path must be one that ends in .png, not {value}.",
    "out": "There is no folder {folder} to write {value} into. Make it first, or choose another path.",
    "out_folder": "{value} is a folder, so no file can be written there. Choose another path.",
    "out_closed": "Nothing can be written into {folder}, so {value} cannot. Choose another path, or change its rights.",
    "out_name": "No file can be named {value} ({reason}). Choose another path.",
    "count": "The number of cases must be at least 1, not {value}.",
    "earlier": "The step of a branch must be a whole number above those before it and below {total}, not {value}.",
    "no_run": "The run to branch from is no longer kept. Generate it anew, then choose a step of it.",
    "memory": (
        "The device has too little memory for {value} pixels with the memory plan {name}. Choose a smaller picture "
        "or a shorter prompt, or start the program {choices}."
    ),
    "device": (
        "The device failed: {value}. Start the program again; if it fails again, update the device's driver or use "
        "another."
    ),
    "resume": "The kept step {value} does not belong to this request of {total} steps. Generate it anew.",
}


class RequestError(ValueError):
    """A mistake the user can mend. `code` is a key of SENTENCES; `values` fill its sentence."""

    def __init__(self, code: str, **values: Any) -> None:
        self.code, self.values = code, values
        super().__init__(SENTENCES[code].format(**{name: _short(value) for name, value in values.items()}))


def _short(value: Any) -> Any:
    """A value as a sentence can name it: what anybody may send can be as long as anything."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return value if len(value) <= MOST_NAMED else f"{value[: MOST_NAMED // 2]}…{value[-MOST_NAMED // 2 :]}"
    return value if isinstance(value, Path) or (is_number(value) and abs(value) < 1e20) else reprlib.repr(value)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a profile can take. Sizes in pixels; a reference's long side is brought to `reference` pixels."""

    steps: int = 100
    cfg: float = 10.0
    guidance: float = 10.0
    prompt: int = 2000
    references: int = 1
    least_size: int = 64
    most_size: int = 64
    multiple: int = 16
    reference: int = 64

    def takes(self, side: Any) -> bool:
        """Whether a picture's side can have so many pixels."""
        return is_whole(side) and self.least_size <= side <= self.most_size and side % self.multiple == 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation. `references` are clean RGB pictures (images.open_picture).

    `balance` is b in [0, 1] per stage; `cfg` true classifier-free guidance (1 = off); `guidance` FLUX's embedded
    guidance; `height`, `width` in pixels; `stage_steps` whole steps per stage, None = from the profile's thresholds;
    `eta` in [0, 1] how much of each step's noise is drawn anew (see sampling.denoise);
    `late_text` what stays of the MLLM tokens where they weigh nothing: `drop` or `keep`; `uncond` what the
    unconditional branch sees: `lean` nothing, `full` the reference tokens; `earlier` where a run was branched, by
    rising step: rows of the number of steps up to there and the three balances that held; `previews` whether steps
    carry pictures.
    """

    profile: str
    prompt: str
    references: tuple[Image.Image, ...]
    balance: tuple[float, float, float]
    steps: int
    cfg: float
    guidance: float
    seed: int
    height: int
    width: int
    eta: float
    uncond: str
    late_text: str
    stage_steps: tuple[int, int, int] | None = None
    earlier: tuple[tuple[int, float, float, float], ...] = ()
    previews: bool = True

    def balance_at(self, step: int, counts: tuple[int, int, int]) -> float:
        """The balance at a step, counted from 0; `counts` are the whole steps of each stage."""
        held = next((balance for until, *balance in self.earlier if step < until), self.balance)
        return held[stage_of(step, counts)]

    def checked(self, limits: Limits) -> Request:
        """The request itself if everything is within the limits; raises RequestError at the first thing that is not."""
        if not self.references:
            raise RequestError("no_reference")
        if len(self.references) > limits.references:
            raise RequestError("too_many_references", value=len(self.references), limit=limits.references)
        if len(self.prompt) > limits.prompt:
            raise RequestError("long_prompt", value=len(self.prompt), limit=limits.prompt)
        if not clean_prompt(self.prompt).strip(JOINERS):
            raise RequestError("empty_prompt")
        check_whole("steps", self.steps, 1, limits.steps)
        check_number("cfg", self.cfg, 1, limits.cfg)
        check_number("guidance", self.guidance, 0, limits.guidance)
        check_number("eta", self.eta, 0, 1)
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_balance(self.balance)
        for name in ("height", "width"):
            value = getattr(self, name)
            if not limits.takes(value):
                raise RequestError(
                    "size", name=name.capitalize(), value=value, multiple=limits.multiple, least=limits.least_size,
                    limit=limits.most_size,
                )  # fmt: skip
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise RequestError("option", name=name, value=repr(getattr(self, name)), choices=" or ".join(choices))
        if self.stage_steps is not None:
            check_stage_steps(self.stage_steps, self.steps)
        check_earlier(self.earlier, self.steps)
        return self


def clean_prompt(prompt: str) -> str:
    """The prompt without control characters and outer or doubled white space; emoji and other scripts stay, those too
    that this Python's Unicode tables do not know yet."""
    kept = []
    for c in prompt:
        kind = unicodedata.category(c)
        if kind in ("Cc", "Cs"):
            kept.append(" ")
        elif kind != "Cf" or c in JOINERS or c in TAGS:
            kept.append(c)
    return " ".join("".join(kept).split())


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number (and not a truth value)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number (and not a truth value); NaN is one, and fails every comparison."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(code: str, value: Any, least: int, limit: int) -> None:
    """Raises RequestError unless `value` is a whole number from `least` to `limit`."""
    if not is_whole(value) or not least <= value <= limit:
        raise RequestError(code, value=value, limit=limit)


def check_number(code: str, value: Any, least: float, limit: float) -> None:
    """Raises RequestError unless `value` is a finite number from `least` to `limit`."""
    if not is_number(value) or not least <= value <= limit:
        raise RequestError(code, value=value, limit=limit)


def check_stage_steps(counts: Any, steps: int) -> None:
    """Raises RequestError unless there are three whole numbers of steps that add up to `steps`."""
    listed = isinstance(counts, tuple | list) and len(counts) == len(STAGES)
    if not listed or not all(is_whole(n) and n >= 0 for n in counts) or sum(counts) != steps:
        raise RequestError("stage_steps", value=counts, total=steps)


def check_earlier(rows: Any, steps: int) -> None:
    """Raises RequestError unless there are rows of a step below `steps`, rising, and three balances."""
    least = 1
    for row in rows if isinstance(rows, tuple | list) else [rows]:
        step, *balance = row if isinstance(row, tuple | list) and row else [row]
        if not is_whole(step) or not is_whole(steps) or not least <= step < steps:
            raise RequestError("earlier", value=step, total=steps)
        check_balance(balance)
        least = step + 1


def check_balance(balance: Any) -> None:
    """Raises RequestError unless there are three numbers from 0 to 1."""
    if not isinstance(balance, tuple | list):
        raise RequestError("balance_length", value=balance)
    if len(balance) != len(STAGES):
        raise RequestError("balance_length", value=",".join(map(str, balance)) or "none")
    for stage, value in enumerate(balance, 1):
        if not is_number(value) or not 0 <= value <= 1:
            raise RequestError("balance", stage=stage, value=value)
