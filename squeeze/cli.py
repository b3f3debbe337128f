"""The command line: python -m squeeze generate | train | evaluate.

`--json` prints one JSON object on stdout; sentences go to stderr. Exit 2 for a mistake of the user's, 130 for a stop.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from .balance import PRESETS
from .events import Encoded, Finished, StepDone
from .images import open_picture
from .models.loading import LoadError, load
from .models.profiles import PROFILES, find_profile
from .pipeline import default_request, generate
from .recipe import write_png
from .request import MAX_SEED, RequestError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; gives the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (RequestError, LoadError) as error:
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
    _profile_options(one)
    one.add_argument("--reference", required=True, action="append", help="a picture of the subject")
    one.add_argument("--prompt", required=True, help='for example "on the beach, facing left, with a red hat"')
    one.add_argument("--balance", type=_balance, help="three numbers from 0 to 1, or a preset: " + ", ".join(PRESETS))
    one.add_argument("--steps", type=_number, help="whole steps")
    one.add_argument("--cfg", type=_number, help="true classifier-free guidance, 1 = off")
    one.add_argument("--seed", type=_number, default=0, help=f"0 to {MAX_SEED}")
    one.add_argument("--late-text", help="drop or keep the text tokens where the MLLM weighs nothing")
    one.add_argument("--uncond", help="lean or full")
    one.add_argument("--out", required=True, type=Path, help="the PNG to write; it carries its recipe")
    one.add_argument("--json", action="store_true", help="print the recipe and figures as JSON")
    one.set_defaults(run=_generate)

    train = commands.add_parser("train", help="train a part of the embedded model")
    train.add_argument("world", choices=["plush"])
    train.add_argument("--part", required=True, choices=["vae", "mllm", "probe", "phase1", "phase2"])
    box = train.add_mutually_exclusive_group(required=True)
    box.add_argument("--minutes", type=float, help="stop after so many minutes")
    box.add_argument("--steps", type=int, help="stop at this step number")
    train.add_argument("--resume", type=Path, help="a folder with a checkpoint, or with weights to start from")
    train.add_argument("--out", type=Path, default=Path("runs/plush"), help="where weights and checkpoints go")
    train.add_argument("--device", default="cpu", help="cpu or cuda")
    train.add_argument("--rate", type=float, help="peak learning rate; each part has its own if left out")
    train.add_argument("--batch", type=int, help="samples a step; each part has its own if left out")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--compile", action="store_true", help="phases only: minutes of compiling, then faster steps")
    train.set_defaults(run=_train)

    score = commands.add_parser("evaluate", help="measure the embedded model on held-out toys and prompts")
    score.add_argument("world", choices=["plush"])
    score.add_argument("--n", type=int, default=200, help="number of cases")
    score.add_argument("--balance", type=_balance, help="three numbers from 0 to 1, or a preset: " + ", ".join(PRESETS))
    score.add_argument("--cfg", type=_number)
    score.add_argument("--steps", type=_number)
    score.add_argument("--parts", action="store_true", help="measure probe, VAE and MLLM by themselves instead")
    score.add_argument("--sheet", type=Path, help="write references and pictures side by side as a PNG")
    score.add_argument("--weights", type=Path, help="a folder of weights in place of the profile's own")
    score.add_argument("--json", action="store_true")
    score.set_defaults(run=_evaluate)
    return parser


def _profile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="plush", help=", ".join(PROFILES))
    parser.add_argument("--weights", type=Path, help="a folder of weights in place of the profile's own")
    parser.add_argument("--device", help="cpu or cuda; the profile chooses if left out")


def _balance(text: str) -> tuple[float | str, ...]:
    """A preset's balances, or numbers as they were written; what they are is judged by Request, with a sentence."""
    return PRESETS.get(text) or tuple(_number(part) for part in text.split(","))


def _number(text: str) -> int | float | str:
    """A number as whole as it was written; what is none is judged by Request, with a sentence."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _generate(options: argparse.Namespace) -> int:
    profile = find_profile(options.profile)
    asked = {name: getattr(options, name) for name in ("balance", "steps", "cfg", "late_text", "uncond")}
    request = default_request(
        profile,
        prompt=options.prompt,
        references=tuple(open_picture(path) for path in options.reference),
        seed=options.seed,
        previews=False,
        **{name: value for name, value in asked.items() if value is not None},
    ).checked(profile.limits)
    if not options.out.parent.is_dir():
        raise RequestError("out", value=options.out, folder=options.out.parent)
    models = load(profile, options.weights, options.device)
    for event in generate(models, request):
        if isinstance(event, Encoded) and event.unknown_words:
            print(f"The model does not know these words: {', '.join(event.unknown_words)}", file=sys.stderr)
        elif isinstance(event, StepDone) and sys.stderr.isatty():
            print(f"\rstep {event.step + 1} of {event.steps}", end="", file=sys.stderr, flush=True)
        elif isinstance(event, Finished):
            write_png(event.image, event.recipe, options.out)
            print(f"\nWrote {options.out} in {event.seconds:.1f} s.", file=sys.stderr)
            if options.json:
                print(json.dumps({"out": str(options.out), "seconds": round(event.seconds, 3), "recipe": event.recipe}))
    return 0


def _train(options: argparse.Namespace) -> int:
    from .training.run import train_plush  # the trainers' imports are not needed to draw

    for stop in (signal.SIGINT, signal.SIGTERM):  # either way the loop writes its checkpoint before it ends
        signal.signal(stop, signal.default_int_handler)
    command = shlex.join(["python", "-m", "squeeze", *sys.argv[1:]])
    train_plush(
        options.part, options.out, command=command, minutes=options.minutes, steps=options.steps,
        resume=options.resume, device=options.device, seed=options.seed, rate=options.rate, batch=options.batch,
        compiled=options.compile,
    )  # fmt: skip
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation import plush

    profile = find_profile(options.world)
    if options.n < 1:
        raise RequestError("count", value=options.n)
    models = load(profile, options.weights)
    probe, full = plush.load_instruments(models)
    if options.parts:
        figures: dict[str, Any] = plush.evaluate_parts(models, probe, full, options.n)
        print(json.dumps(figures, indent=None if options.json else 1))
        return 0
    asked = {name: getattr(options, name) for name in ("balance", "cfg", "steps") if getattr(options, name) is not None}
    drawn = []
    for result in plush.evaluate(models, probe, options.n, **asked):
        drawn.append(result)
        if sys.stderr.isatty():
            print(f"\r{len(drawn)} of {options.n}", end="", file=sys.stderr, flush=True)
    figures = {"profile": profile.name, "revision": models.revision, **asked, **plush.summary(drawn)}
    print(json.dumps(figures) if options.json else plush.as_markdown(figures))
    if options.sheet:
        plush.sheet(drawn).save(options.sheet)
    return 0
