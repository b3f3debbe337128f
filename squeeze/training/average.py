"""The mean of several trainings of one model: it often does better than each (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from ..files import copy_folder, write_text
from ..models.aggregation import Aggregation
from ..models.parts import read_model
from ..models.sources import LoadError, Located, read_part, read_record, revision
from .loop import save_bf16
from .run import FROZEN

PARTS: dict[str, Any] = {"aggregation": Aggregation, "transformer": FluxTransformer2DModel}
OTHERS = "Name folders that phase1 or phase2 wrote, trained on from the same weights."


def average(folders: Sequence[Path], out: Path, command: str) -> None:
    """Writes `aggregation/` and `transformer/` into `out`, every weight the mean of those in `folders`, beside them the
    first folder's frozen parts, and notes it in `training.json` after what the first folder's tells.

    Raises LoadError before anything is written where a folder has none, or damaged ones, or those of another model.
    """
    for folder in folders:
        for name in PARTS:
            if not (folder / name / "config.json").is_file():
                raise LoadError(f"There is no {name}/ in {folder}. {OTHERS}")
    means = {name: _mean([folder / name for folder in folders], kind) for name, kind in PARTS.items()}
    kept = read_record(folders[0])
    for name, mean in means.items():
        save_bf16(mean, out / name)
    for name in FROZEN:
        if (folders[0] / name).is_dir():
            copy_folder(folders[0] / name, out / name)
    kept["runs"].append({
        "part": "average", "command": command, "of": [revision(folder) for folder in folders],
        "date": datetime.date.today().isoformat(),
    })  # fmt: skip
    kept["revision"] = revision(out)
    write_text(out / "training.json", json.dumps(kept, indent=1) + "\n")


def _mean(folders: Sequence[Path], kind: Any) -> Any:
    """The model in the first folder with the mean of the weights of all."""
    read = partial(read_model, kind, dtype="float32")
    models = [read_part(Located(path=path, origin=str(path), restore=OTHERS), read) for path in folders]
    states = [model.state_dict() for model in models]
    builds = [
        ({key: value.shape for key, value in state.items()}, _config(model))
        for state, model in zip(states, models, strict=True)
    ]
    for path, built in zip(folders, builds, strict=True):
        if built != builds[0]:
            raise LoadError(f"The model in {path} is not built as the one in {folders[0]}. {OTHERS}")
    models[0].load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    return models[0]


def _config(model: Any) -> dict[str, Any]:
    """What a model was built by: layers that are read, say, which no weight's shape tells."""
    return {key: value for key, value in model.config.items() if not key.startswith("_")}
