"""The command line: python -m squeeze generate | train | average | evaluate | bench.

`--json` prints one JSON object on stdout; sentences go to stderr. Exit 2 for a mistake of the user's, 130 for a stop,
1 where --verify finds another picture than the recipe's. What a command works with is imported once its flags make
sense: diffusers and transformers take seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .cli_bench import add_bench
from .cli_checks import above_zero, add_asked, at_least_one, check_writable, shares, training_seed
from .cli_evaluate import add_evaluate
from .cli_models import add_models, load_models
from .evaluation.records import EvaluationError
from .events import Encoded, Finished, StepDone
from .files import WriteError, whole, write_text
from .images import content_hash, open_picture
from .models.failures import reason, trouble
from .models.profiles import PROFILES, find_profile
from .models.sources import LoadError
from .recipe import (
    FIELDS,
    OPTIONS,
    RecipeError,
    as_tuples,
    asked,
    differences,
    is_png,
    number,
    read_file,
    to_text,
    write_png,
)
from .request import MAX_SEED, Request, RequestError

MODES = ("last_layer", "last_layer_blend_vit", "single_lap", "dla")  # of Aggregation
DEFAULT = "plush"  # the profile that needs nothing but this repository
# flags of a training that only phases take, with their defaults
PHASES_ONLY = {
    "compile": False, "singles": None, "critic": None, "mode": "dla", "layers": "all", "dropout": (0.15, 0.15),
    "size": None,
}  # fmt: skip

UNTRAINED = {  # where the device fails a training, see models/failures.py
    "memory": "The device has too little memory for this training. Give a smaller --batch, and --resume {out} to go "
    "on from what it keeps.",
    "device": "The device failed: {reason}. Run the command again, with --resume {out} to go on from what it keeps.",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; gives the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (RequestError, RecipeError, LoadError, EvaluationError, WriteError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m squeeze", description="Subject-driven image generation, stage by stage."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("generate", help="draw one picture")
    one.add_argument("--profile", help=f"{', '.join(PROFILES)}; {DEFAULT} if left out")
    add_models(one)
    one.add_argument("--device", help="cpu or cuda; the profile chooses if left out")
    one.add_argument("--reference", required=True, action="append", help="a picture of the subject")
    one.add_argument("--prompt", help='for example "on the beach, facing left, with a red hat"')
    add_asked(one)
    one.add_argument("--guidance", type=number, help="FLUX's embedded guidance, for transformers that have it")
    one.add_argument("--seed", type=number, help=f"0 to {MAX_SEED}; 0 if left out")
    for side in ("height", "width"):
        one.add_argument(f"--{side}", type=number, help="pixels, a multiple of 16; the profile's if left out")
    one.add_argument("--late-text", help="drop or keep the text tokens where the MLLM weighs nothing")
    one.add_argument("--uncond", help="lean or full: what the unconditional branch sees")
    one.add_argument("--earlier", type=_rows, help="of a branched run: steps and balances up to there, 9,0,0.5,1;...")
    one.add_argument("--recipe", type=Path, help="a PNG of ours, or its recipe as JSON: what no other flag says is its")
    one.add_argument("--verify", action="store_true", help="say whether the picture is the recipe's; exit 1 if not")
    one.add_argument(
        "--out", required=True, type=Path, help="the PNG to write; it carries its recipe, and beside it goes a JSON"
    )
    one.add_argument("--json", action="store_true", help="print the recipe and figures as JSON")
    one.set_defaults(run=_generate)

    train = commands.add_parser("train", help="train a part of the embedded model")
    train.add_argument("world", choices=["plush"])
    parts = ["vae", "decoder", "preview", "mllm", "vision", "framing", "probe", "critic", "phase1", "phase2"]
    train.add_argument("--part", required=True, choices=parts)
    box = train.add_mutually_exclusive_group(required=True)
    box.add_argument("--minutes", type=above_zero, help="stop after so many minutes")
    box.add_argument("--steps", type=at_least_one, help="stop at this step number")
    train.add_argument("--resume", type=Path, help="a folder with a checkpoint, or with weights to start from")
    train.add_argument(
        "--out", type=Path, default=Path("runs/plush"), help="where weights and checkpoints go; %(default)s"
    )
    train.add_argument("--device", default="cpu", help="cpu or cuda; %(default)s")
    train.add_argument("--rate", type=above_zero, help="peak learning rate; each part has its own if left out")
    train.add_argument("--batch", type=at_least_one, help="samples a step; each part has its own if left out")
    train.add_argument("--seed", type=training_seed, default=0, help="of weights and samples; %(default)s")
    train.add_argument("--compile", action="store_true", help="phases only: minutes of compiling, then faster steps")
    train.add_argument("--singles", type=at_least_one, help="phases only: deepen the DiT to so many single blocks")
    train.add_argument("--critic", type=Path, help="phases only: a folder with the critic to train before")
    ablation = train.add_argument_group("ablations", "phases only")
    ablation.add_argument("--mode", choices=MODES, help="how the MLLM's layers are aggregated; %(default)s")
    ablation.add_argument("--layers", choices=("early", "middle", "late", "all"), help="which are read; %(default)s")
    ablation.add_argument(
        "--dropout", type=shares, help="how often a condition is dropped by itself: both, or MLLM,VAE; 0.15"
    )
    ablation.add_argument("--size", type=int, choices=(64, 128), help="pixels a side; the profile's if left out")
    train.set_defaults(run=_train, **PHASES_ONLY)

    mean = commands.add_parser(
        "average", help="the mean of several trainings of the phases, started from the same weights"
    )
    mean.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="what trainings wrote, two or more")
    mean.add_argument("--out", required=True, type=Path, help="where aggregation/ and transformer/ go")
    mean.set_defaults(run=_average)

    add_evaluate(commands)
    add_bench(commands)
    return parser


def _rows(text: str) -> tuple[tuple[int | float | str, ...], ...]:
    """Rows of numbers, see Request.earlier."""
    return as_tuples(FIELDS["earlier"].read(text))


def _generate(options: argparse.Namespace) -> int:
    from .pipeline import generate

    if options.verify and not options.recipe:
        raise RecipeError("--verify compares the picture with a recipe's. Name the recipe's PNG or JSON with --recipe.")
    recipe = read_file(options.recipe) if options.recipe else None
    request = _request(options, recipe)
    before = open_picture(options.recipe) if options.verify and is_png(options.recipe) else None
    if options.out.suffix.lower() != ".png":
        raise RequestError("out_suffix", value=options.out)
    if not os.path.isdir(options.out.parent):
        raise RequestError("out", value=options.out, folder=options.out.parent)
    beside = options.out.with_suffix(".json")
    for path in (options.out, beside):
        check_writable(path)
    models = load_models(options, find_profile(request.profile), options.device, partial(print, file=sys.stderr))
    status = 0
    for event in generate(models, request):
        if isinstance(event, Encoded) and event.unknown_words:
            print(f"The model does not know these words: {', '.join(event.unknown_words)}", file=sys.stderr)
        elif isinstance(event, StepDone) and sys.stderr.isatty():
            print(f"\rstep {event.step + 1} of {event.steps}", end="", file=sys.stderr, flush=True)
        elif isinstance(event, Finished):
            with whole(options.out) as part:
                write_png(event.image, event.recipe, part)
            write_text(beside, to_text(event.recipe) + "\n")
            print(f"\nWrote {options.out} and {beside} in {event.seconds:.1f} s.", file=sys.stderr)
            if options.json:
                print(json.dumps({"out": str(options.out), "seconds": round(event.seconds, 3), "recipe": event.recipe}))
            if options.verify:
                status = _verify(recipe, before, event)
    return status


def _request(options: argparse.Namespace, recipe: dict[str, Any] | None) -> Request:
    """What the flags ask for, then what the recipe does, then what the profile does, checked."""
    from .pipeline import default_request

    profile = find_profile(options.profile or (recipe["profile"] if recipe else DEFAULT))
    references = tuple(open_picture(path) for path in options.reference)
    wanted = {"prompt": ""} | (asked(recipe) if recipe else {})
    given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    if "steps" in given:
        wanted.pop("stage_steps", None)  # the recipe's add up to the recipe's steps
    if not {"steps", "stage_steps", "balance"}.isdisjoint(given):
        wanted.pop("earlier", None)  # as on the page: what is changed holds from the first step on
    if recipe:
        hashes = [content_hash(picture) for picture in references]
        if hashes != recipe["references"]:
            raise RecipeError(
                f"The recipe's reference has the content hash {', '.join(recipe['references']) or 'none'}; "
                f"{', '.join(options.reference)} has {', '.join(hashes)}. Give the picture it was made with."
            )
    return default_request(profile, references=references, previews=False, **wanted | given).checked(profile.limits)


def _verify(recipe: dict[str, Any], before: Image.Image | None, made: Finished) -> int:
    """Says whether the picture is the recipe's and what differs; `before` are the pixels that came with the recipe.
    0 if the picture is identical, else 1."""
    found = differences(recipe, made.recipe)
    identical = recipe["picture"] == made.recipe["picture"]
    if before is not None:
        if content_hash(before) != recipe["picture"]:
            found.append("The PNG's pixels are not the ones its recipe names: it was changed after it was written.")
        pixels = _pixels(before, made.image)
        identical = identical and not pixels
        found += pixels
    print("The picture is identical." if identical else "The picture is not identical.", file=sys.stderr)
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 0 if identical else 1


def _pixels(before: Image.Image, now: Image.Image) -> list[str]:
    """How many pixels of two RGB pictures differ, and by how much at most; nothing where none does."""
    if before.size != now.size:
        return [f"The picture has {before.width} × {before.height} pixels in the PNG, {now.width} × {now.height} here."]
    apart = np.abs(np.asarray(before, dtype=np.int16) - np.asarray(now, dtype=np.int16)).max(-1)
    count = int((apart > 0).sum())
    return [f"{count:,} of {apart.size:,} pixels differ, by at most {apart.max()} of 255."] if count else []


def _train(options: argparse.Namespace) -> int:
    from .training.loop import DivergedError
    from .training.phases import Variant  # the trainers' imports are not needed to draw
    from .training.run import train_plush

    unused = [name for name, default in PHASES_ONLY.items() if getattr(options, name) != default]
    if unused and not options.part.startswith("phase"):
        print(
            f"--{unused[0]} is for the phases and has no use with --part {options.part}. Leave it out.", file=sys.stderr
        )
        return 2
    check_writable(options.out / "training.json")
    try:
        last = train_plush(
            options.part, options.out, command=_command(), minutes=options.minutes, steps=options.steps,
            resume=options.resume, device=options.device, seed=options.seed, rate=options.rate, batch=options.batch,
            compiled=options.compile, singles=options.singles, critic=options.critic,
            variant=Variant(mode=options.mode, layers=options.layers, dropout=options.dropout, size=options.size),
        )  # fmt: skip
    except DivergedError as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        if (kind := trouble(error)) is None:
            raise
        print(UNTRAINED[kind].format(reason=reason(error), out=options.out), file=sys.stderr)
        return 2
    if last is None:
        print(
            f"Nothing was left to train: {options.resume} is at step {options.steps} or beyond already. --steps is the "
            f"number of the last step; give a higher one for more.", file=sys.stderr,
        )  # fmt: skip
    return 0


def _average(options: argparse.Namespace) -> int:
    from .training.average import average

    if len(options.folders) < 2:
        print("A mean takes two folders or more. Name another.", file=sys.stderr)
        return 2
    check_writable(options.out / "training.json")
    average(options.folders, options.out, _command())
    return 0


def _command() -> str:
    """What was typed, as `training.json` keeps it."""
    return shlex.join(["python", "-m", "squeeze", *sys.argv[1:]])
