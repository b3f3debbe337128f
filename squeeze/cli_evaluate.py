"""The command line: python -m squeeze evaluate plush | table | dreambench. See cli.py for what is printed where."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from .cli_checks import ASKED, MOST_SEED, add_asked, at_least_one, check_writable, flag, training_seed
from .cli_models import FLAGS, add_models, load_models
from .evaluation.records import EvaluationError, Records
from .files import WriteError, whole, write_text
from .models.profiles import PROFILES, find_profile
from .request import RequestError

WAIT = datetime.timedelta(days=30)  # that a process which is done waits for the others; torch's own is minutes
TABLE_NAMES = ("thresholds", "conditions", "late_text", "eta", "sweep", "aggregation", "layers", "training")
CASES = 200  # of `plush` and of each row of a table
UNUSED = {  # what these ways of `plush` have no use for
    "photos": ("n", "out", "needs_picture"),
    "parts": ("out", "needs_picture", "sheet", *ASKED),
}


def add_evaluate(commands: Any) -> None:
    """Adds the command to the parser's `commands`."""
    score = commands.add_parser("evaluate", help="measure a model")
    worlds = score.add_subparsers(required=True, metavar="BENCHMARK")

    toys = worlds.add_parser("plush", help="the embedded model on held-out toys and prompts")
    toys.add_argument("--n", type=int, help=f"number of cases; {CASES} if left out")
    toys.add_argument("--out", type=Path, help="keep each case in this folder, so that a stopped run goes on")
    instead = toys.add_mutually_exclusive_group()
    instead.add_argument("--parts", action="store_true", help="measure probe, VAE and MLLM by themselves instead")
    instead.add_argument("--photos", type=Path, help="draw from the photos of a DreamBench folder instead")
    instead.add_argument(
        "--selection", action="store_true", help="the cases kept for choosing weights and settings, no others"
    )
    toys.add_argument(
        "--needs-picture", action="store_true", default=None, help="only cases whose prompts need the picture"
    )
    toys.add_argument("--sheet", type=Path, help="write references and pictures side by side as a PNG")
    toys.add_argument("--weights", type=Path, help="a folder of weights in place of the profile's own")
    toys.set_defaults(run=_plush)

    table = worlds.add_parser("table", help="the paper's tables in miniature, by the embedded model")
    table.add_argument("name", choices=TABLE_NAMES)
    table.add_argument("--n", type=int, default=CASES, help="number of cases a row; %(default)s")
    table.add_argument(
        "--out", type=Path, default=Path("runs/tables"), help="cases and variants; a stopped run goes on; %(default)s"
    )
    table.add_argument(
        "--steps", type=int, default=2000, help="training steps of each variant, where there are any; %(default)s"
    )
    table.add_argument(
        "--size", type=int, choices=(64, 128), help="pixels a side of variants' pictures; the profile's if left out"
    )
    table.add_argument("--processes", type=int, default=1, help="processes that train a variant together")
    table.add_argument(
        "--seed", type=training_seed, default=0, help="of the trainings; the first one's, where there are more"
    )
    table.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each variant, by seeds in a row")
    table.add_argument("--only", help="a single row, by its name")
    table.add_argument("--curve", type=Path, help="of `sweep`: write identity against prompt as an SVG")
    table.add_argument("--json", action="store_true", help="print the rows as JSON")
    table.set_defaults(run=_table)

    photos = worlds.add_parser("dreambench", help="DINO-I, CLIP-I and CLIP-T on photos of real subjects")
    photos.add_argument("--data", type=Path, required=True, help="the folder `dataset` of github.com/google/dreambooth")
    made = photos.add_mutually_exclusive_group(required=True)
    made.add_argument("--profile", help=f"draws the pictures: {', '.join(PROFILES)}")
    made.add_argument("--pictures", type=Path, help="score this folder of SUBJECT/PROMPT_SEED.png instead")
    photos.add_argument(
        "--out", type=Path, help="where all is written, runs/dreambench-NAME if left out; a stopped run goes on"
    )
    photos.add_argument("--seeds", type=int, help="pictures of each prompt; 4 if left out")
    photos.add_argument("--limit", type=int, help="only so many cases, spread over subjects and prompts")
    photos.add_argument("--metrics", type=Path, help="a folder with dino/ and clip/ in place of the hub's checkpoints")
    photos.add_argument("--device", choices=["cpu", "cuda"], help="chosen if left out, one for each process")
    add_models(photos)
    photos.set_defaults(run=_dreambench)

    for one in (toys, photos):
        add_asked(one)
        one.add_argument("--json", action="store_true", help="print the figures as JSON")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ASKED if getattr(options, name) is not None}


def _plush(options: argparse.Namespace) -> int:
    from PIL import Image

    from .evaluation import parts, plush
    from .evaluation.likeness import likeness
    from .models.loading import load
    from .pipeline import default_request, settings

    _check_plush(options)
    if options.photos:
        return _photos(options)

    profile, count = find_profile("plush"), options.n or CASES
    models = load(profile, options.weights)
    probe = parts.load_probe(models.profile)
    if options.parts:
        figures: dict[str, Any] = parts.evaluate_parts(models, probe, parts.load_full(models), count)
        print(json.dumps(figures, indent=None if options.json else 1))
        return 0
    asked = _asked(options)
    made = {"profile": profile.name, "revision": models.revision, **asked}
    if options.selection:
        asked["seed"] = made["seed"] = plush.SELECTION_SEED
    records = Records(options.out) if options.out else None
    if records:
        blank = Image.new("RGB", (models.profile.size, models.profile.size))
        request = default_request(models.profile, prompt="toy", references=(blank,), **asked)
        request.checked(models.profile.limits)  # what cannot be drawn marks no folder
        records.claim({"benchmark": "plush"} | made | settings(models.profile, asked))
    drawn, needing = [], bool(options.needs_picture)
    for result in plush.evaluate(models, probe, count, needing=needing, records=records, **asked):
        drawn.append(result)
        _progress(len(drawn), count)
    figures = made | plush.summary(drawn) | likeness(probe, [one.picture for one in drawn], models.profile.size)
    if not needing:  # a prompt that leaves the facing open needs no picture
        turned = list(plush.evaluate(models, probe, max(1, count // 4), free=True, records=records, **asked))
        figures["copy_paste"] = plush.copy_paste(turned)
    print(json.dumps(figures) if options.json else plush.as_markdown(figures))
    _write_sheet(options.sheet, drawn)
    return 0


def _photos(options: argparse.Namespace) -> int:
    from .evaluation import parts, photos
    from .evaluation.subjects import read_bench
    from .models.loading import load

    bench = read_bench(options.photos)
    for sentence in bench.skipped:
        print(f"Skipped {sentence}", file=sys.stderr)
    models = load(find_profile("plush"), options.weights)
    drawn = list(photos.evaluate(models, parts.load_probe(models.profile), bench, **_asked(options)))
    figures = {"profile": "plush", "revision": models.revision, "data": bench.fingerprint, **_asked(options)}
    figures |= photos.summary(drawn, bench.skipped)
    print(json.dumps(figures) if options.json else photos.as_markdown(figures))
    _write_sheet(options.sheet, drawn)
    return 0


def _write_sheet(path: Path | None, drawn: list[Any]) -> None:
    from .evaluation.plush import sheet

    if path:
        with whole(path) as part:
            sheet(drawn).save(part, format="PNG")


def _check_plush(options: argparse.Namespace) -> None:
    """Raises RequestError or EvaluationError for flags that make no sense."""
    if options.n is not None and options.n < 1:
        raise RequestError("count", value=options.n)
    for way, names in UNUSED.items():
        given = [name for name in names if getattr(options, name) is not None]
        if getattr(options, way) and given:
            raise EvaluationError(f"{flag(given[0])} has no use with --{way}. Leave one of the two out.")
    if options.sheet and options.sheet.suffix.lower() != ".png":
        raise RequestError("out_suffix", value=options.sheet)
    if options.sheet:
        check_writable(options.sheet)


def _table(options: argparse.Namespace) -> int:
    from .evaluation import curve, tables

    if options.n < 1:
        raise RequestError("count", value=options.n)
    for name in ("steps", "processes"):
        if getattr(options, name) < 1:
            raise EvaluationError(f"--{name} must be at least 1, not {getattr(options, name)}.")
    if tables.BATCH % options.processes:
        raise EvaluationError(f"--processes must divide a batch of {tables.BATCH}, and {options.processes} does not.")
    if options.seed + options.seeds - 1 > MOST_SEED:
        raise EvaluationError(f"The last of {options.seeds} seeds from {options.seed} is beyond {MOST_SEED}.")
    flags = [f"--{name}" for name, default in (("size", None), ("seeds", 1)) if getattr(options, name) != default]
    if flags and not any(row.trained for row in tables.TABLES[options.name][1](find_profile("plush"))):
        raise EvaluationError(f"{flags[0]} is for tables that train variants, and `{options.name}` trains none.")
    if options.curve and (options.name != "sweep" or options.only):
        raise EvaluationError("--curve draws the table `sweep`, and needs the whole of it.")
    if options.curve and options.curve.suffix.lower() != ".svg":
        raise EvaluationError(f"--curve draws into an .svg file, not into {options.curve}.")
    if options.curve:
        check_writable(options.curve)
    rows = []
    for row in tables.run_table(
        options.name, find_profile("plush"), options.n, options.out, steps=options.steps,
        processes=options.processes, seed=options.seed, seeds=options.seeds, only=options.only, size=options.size,
    ):  # fmt: skip
        rows.append(row)
        print(tables.as_markdown(options.name, [row]).splitlines()[-1], file=sys.stderr)
    if options.curve:
        write_text(options.curve, curve.as_svg(rows))
    print(json.dumps({"table": options.name, "rows": rows}) if options.json else tables.as_markdown(options.name, rows))
    return 0


def _dreambench(options: argparse.Namespace) -> int:
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from .evaluation import comparison, dreambench, gallery, metrics, subjects
    from .models.loading import find_device
    from .pipeline import settings

    _check(options)
    # 1 the photos and prompts, and the processes that accelerate started
    bench = subjects.read_bench(options.data)
    state = PartialState(cpu=find_device(options.device or "auto").type == "cpu", timeout=WAIT)
    # 2 the metrics, before a plan is made for the memory they leave
    scorer = metrics.load_metrics(options.metrics, state.device)
    # 3 the pictures: another system's, or a profile's
    name = options.pictures.resolve().name if options.pictures else options.profile
    out = options.out or Path("runs") / f"dreambench-{name}"
    if options.pictures:
        source: Any = dreambench.Found(options.pictures, bench)
        cases, made = source.cases, {"pictures": str(options.pictures.resolve())}
        left_out = [*bench.skipped, *source.skipped]
    else:
        profile, device = find_profile(name), str(state.device) if state.num_processes > 1 else options.device
        models = load_models(options, profile, device, partial(print, file=sys.stderr))
        source = dreambench.Drawn(models, out / "pictures", _asked(options))
        cases = dreambench.draw_list(bench, options.seeds or dreambench.SEEDS)
        source.request(cases[0])  # whether the profile can take what is asked, before anything is written
        made = {"profile": name, "revision": models.revision, **settings(models.profile, source.asked)}
        made["seeds"] = cases[-1].seed + 1
        left_out = list(bench.skipped)
    possible, cases = dreambench.possible(bench, cases), cases[: options.limit]
    # 4 the folder takes one run's results only
    records, made = Records(out), made | {"data": bench.fingerprint, "metrics": scorer.weights}
    refused = [_refused(records, made) if state.is_main_process else ""]
    broadcast_object_list(refused)  # one process writes, and all end where it may not
    if refused[0]:
        raise EvaluationError(refused[0])
    # 5 case by case
    if state.is_main_process:
        for sentence in left_out:
            print(f"Skipped {sentence}", file=sys.stderr)
        if bench.missing:
            print(f"The list names subjects that have no folder: {', '.join(bench.missing)}.", file=sys.stderr)
    for done, count, result in dreambench.evaluate(cases, source, scorer, records, state):
        if "skipped" in result:
            print(f"Skipped {result['subject']}, prompt {result['number']}: {result['skipped']}", file=sys.stderr)
        elif state.is_main_process:
            _progress(done, count)
    # 6 what came out, from all processes
    if state.is_main_process:
        figures = {"name": name, **made, "possible": possible, "missing": list(bench.missing), "skipped_data": left_out}
        figures["metrics"] = {
            key: {"source": scorer.source[key], "weights": scorer.weights[key]} for key in scorer.source
        }
        figures |= dreambench.summary(cases, records)
        report = comparison.as_markdown(figures)
        write_text(out / "report.json", json.dumps(figures, indent=1) + "\n")
        write_text(out / "report.md", report)
        page = gallery.write_gallery(out / "gallery", cases, source, records, figures)
        print(json.dumps(figures) if options.json else report)
        print(f"Wrote {out / 'report.md'} and {page}.", file=sys.stderr)
    state.wait_for_everyone()
    state.destroy_process_group()
    return 0


def _refused(records: Records, made: dict[str, Any]) -> str:
    """Why the folder does not take the results of this run; nothing where it does."""
    try:
        records.claim(json.loads(json.dumps(made)))
    except (EvaluationError, WriteError) as error:
        return str(error)
    return ""


def _check(options: argparse.Namespace) -> None:
    """Raises RequestError or EvaluationError for flags that make no sense."""
    if options.limit is not None and options.limit < 1:
        raise RequestError("count", value=options.limit)
    if options.seeds is not None and options.seeds < 1:
        raise EvaluationError(f"The pictures of each prompt must be at least 1, not {options.seeds}.")
    drawing = [name for name in (*ASKED, "seeds", *FLAGS) if getattr(options, name) is not None]
    if options.pictures is None:
        find_profile(options.profile)
    if options.pictures and drawing:
        raise EvaluationError(
            f"{flag(drawing[0])} says how pictures are drawn, and --pictures {options.pictures} are already. "
            f"Leave one out."
        )


def _progress(done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {count}", end="", file=sys.stderr, flush=True)
