"""Adapters: what training adds to public weights, as a folder. Version 1 of the format.

    aggregation/    config.json and weights of an Aggregation (aggregation.py)
    lora/           adapter_config.json and adapter_model.safetensors of a LoRA on the transformer, as peft writes them
    adapter.json    what it belongs to and how it was trained:

        {"format": 1,
         "base": {"mllm": {"repo": "OpenGVLab/InternVL3-8B-hf", "revision": "..."},
                  "transformer": {"repo": "black-forest-labs/FLUX.1-dev", "revision": "..."}},
         "layers": 29, "width": 3584, "text_width": 4096, "pooled_width": 768,
         "rank": 512, "tau1": 0.95, "tau2": 0.85,
         "licence": "...", "revision": "..."}

`layers` and `width` are the MLLM's hidden states and their width, `text_width` and `pooled_width` what the transformer
takes, `rank` the LoRA's, `tau1` and `tau2` the stage borders in t that it was trained for, `revision` any word that
tells this adapter from others. A base's `revision` is the commit it was trained on; it is loaded unless another is
asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..request import is_number, is_whole
from .failures import reason, starved
from .memory import config_of, states_of
from .profiles import Profile, Source
from .sources import LoadError, Located, full_host, read_part

FORMAT = 1
FILES = ("aggregation/config.json", "lora/adapter_config.json", "lora/adapter_model.safetensors")
WHAT = (
    "An adapter is a folder with aggregation/, lora/ and adapter.json, made by training the aggregation and a LoRA on "
    "the transformer in the method's two phases; its format is described in squeeze/models/adapter.py"
)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("layers", "width", "text_width", "pooled_width", "rank"), (is_whole, "a whole number")),
    **dict.fromkeys(("tau1", "tau2"), (lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")),
    **dict.fromkeys(("licence", "revision"), (_is_text, "a text")),
}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What adapter.json says, checked; see the module. `base` are repository and commit of each part it was trained
    with."""

    folder: Path
    base: Mapping[str, Source]
    layers: int
    width: int
    text_width: int
    pooled_width: int
    rank: int
    tau1: float
    tau2: float
    licence: str
    revision: str

    def part(self, name: str) -> Located:
        """Its folder `aggregation` or `lora`."""
        restore = f"Restore it from where the adapter {self.folder} came."
        return Located(path=self.folder / name, origin=self.revision, restore=restore)

    @property
    def revisions(self) -> dict[str, str]:
        """The commit of each repository that it was trained with."""
        return {source.repo: source.revision for source in self.base.values()}


def wanted_by(profile: Profile, folder: Path | None) -> Adapter | None:
    """The adapter of a profile that needs one, None for one that needs none; raises LoadError where the two do not go
    together."""
    if not profile.adapter:
        if folder is not None:
            raise LoadError(f"Profile {profile.name!r} takes no adapter. Leave {folder} out.")
        return None
    if folder is None:
        raise LoadError(f"Profile {profile.name!r} needs an adapter. {WHAT}. Name one with --adapter DIR.")
    return read_adapter(folder, profile)


def read_adapter(folder: Path, profile: Profile) -> Adapter:
    """What adapter.json says, after everything in it that can be checked before weights are loaded."""
    path = folder / "adapter.json"
    if not path.is_file():
        raise LoadError(f"There is no adapter in {folder}: {path} is missing. {WHAT}.")
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LoadError(
            f"{path} is damaged: it is no JSON ({error}). Restore it from where the adapter came."
        ) from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        found = said.get("format") if isinstance(said, dict) else type(said).__name__
        raise LoadError(
            f"{path} is of format {found!r}; this program reads format {FORMAT}. Use an adapter of that format."
        )
    for name, (fits, kind) in FIELDS.items():
        if not fits(said.get(name)):
            raise LoadError(f"{path} must say {name} as {kind}, not {said.get(name)!r}. Correct it.")
    if not said["tau2"] <= said["tau1"]:
        raise LoadError(f"{path} has tau1 {said['tau1']} below tau2 {said['tau2']}; stages run from t = 1 down to 0.")
    base = {name: _base(path, said, name, profile) for name in ("mllm", "transformer")}
    for file in FILES:
        if not (folder / file).is_file():
            raise LoadError(f"The adapter {folder} is incomplete: {file} is missing. Restore it.")
    adapter = Adapter(folder=folder, base=base, **{name: said[name] for name in FIELDS})
    for part, read in (("aggregation", _squeezes), ("lora", _rank)):
        there = read_part(adapter.part(part), read)
        for name, value in there.items():
            if value != said[name]:
                said_so = f"{folder / part} has {name} {value}, adapter.json says {said[name]}"
                raise LoadError(f"{said_so}. Correct the one that is wrong.")
    return adapter


def check_fit(adapter: Adapter, parts: Mapping[str, Located]) -> None:
    """Raises LoadError where the MLLM or the transformer in `parts` has, by its configuration, other sizes than the
    adapter's."""
    layers, width = read_part(parts["mllm"], states_of)
    text_width, pooled_width = read_part(parts["transformer"], _takes)
    pairs = (
        ("layers", "hidden states", adapter.layers, "the language model has", layers),
        ("width", "values in each state", adapter.width, "the language model has", width),
        ("text_width", "values in each text token", adapter.text_width, "the transformer takes", text_width),
        ("pooled_width", "values in the pooled vector", adapter.pooled_width, "the transformer takes", pooled_width),
    )
    for name, what, theirs, who, ours in pairs:
        if theirs != ours:
            raise LoadError(
                f"The adapter {adapter.folder} was made for {theirs} {what} ({name}), {who} {ours}. Use an adapter "
                f"that was made for this profile."
            )


def merge(transformer: nn.Module, adapter: Adapter) -> nn.Module:
    """The transformer with the LoRA added to its weights and nothing of peft left; it is changed in place."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict  # seconds that a start without an adapter saves
    from peft.utils import load_peft_weights

    folder = adapter.folder / "lora"
    try:
        config = replace(LoraConfig.from_pretrained(folder), inference_mode=True)
        wrapped = PeftModel(transformer, config, low_cpu_mem_usage=True)  # gigabytes that would be drawn in vain
        weights = load_peft_weights(str(folder), device="cpu")
        found = set_peft_model_state_dict(wrapped, weights, low_cpu_mem_usage=True)
        missing = [name for name in found.missing_keys if "lora_" in name]
        if missing or found.unexpected_keys:
            raise ValueError(f"weights that do not fit: {', '.join([*missing, *found.unexpected_keys][:3])} ...")
        return wrapped.merge_and_unload()
    except Exception as error:  # peft and safetensors raise a dozen types for a damaged file
        if starved(error):
            raise full_host(folder) from error
        raise LoadError(f"The LoRA in {folder} does not fit or is damaged ({reason(error)}). Restore it.") from error


def _squeezes(aggregation: Path) -> dict[str, int]:
    config = config_of(aggregation)
    return {name: config[name] for name in ("layers", "width", "text_width", "pooled_width")}


def _rank(lora: Path) -> dict[str, int]:
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(lora)
    return {"rank": max(config.r, *config.rank_pattern.values()) if config.rank_pattern else config.r}


def _takes(transformer: Path) -> tuple[int, int]:
    config = config_of(transformer)
    return config["joint_attention_dim"], config["pooled_projection_dim"]


def _base(path: Path, said: dict[str, Any], name: str, profile: Profile) -> Source:
    base = said.get("base")
    row = base.get(name) if isinstance(base, dict) else None
    if not isinstance(row, dict) or not _is_text(row.get("repo")) or not _is_text(row.get("revision")):
        raise LoadError(f"{path} must say repo and revision of its base's {name}, not {row!r}. Correct it.")
    ours = profile.sources[name].repo
    if row["repo"] != ours:
        raise LoadError(
            f"The adapter {path.parent} was made for {row['repo']} as its {name}; profile {profile.name!r} has {ours}. "
            f"Use an adapter that was made for this profile."
        )
    return Source(repo=ours, revision=row["revision"])
