"""The command line: python -m squeeze bench. See cli.py for what is printed where."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .cli_checks import above_zero, check_writable
from .files import write_text
from .models.sources import LoadError
from .request import RequestError


def add_bench(commands: Any) -> None:
    """Adds the command to the parser's `commands`."""
    bench = commands.add_parser("bench", help="time, memory, FLOPs and equalities, with random weights")
    bench.add_argument("--minutes", type=above_zero, default=20.0, help="blocks share so many minutes; 20 if left out")
    bench.add_argument("--device", choices=["cpu", "cuda"], help="cuda where there is one, if left out")
    bench.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="write FILE after every block, over its earlier figures of the same blocks; or, without FILE, print one "
        "JSON object in place of the table",
    )  # fmt: skip
    bench.add_argument("--only", nargs="+", default=[], metavar="BLOCK", help="run these blocks alone")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from .bench.rows import as_markdown
    from .bench.run import BLOCKS, chosen, made_on, run
    from .models.loading import find_device

    names = chosen(options.only)
    device = find_device(options.device or "auto")
    file = Path(options.json) if options.json not in (None, "-") else None
    made = made_on(device)
    blocks: dict[str, Any] = _kept(file, made) if file else {}
    for name, block in run(options.minutes, device, names):
        blocks[name] = block
        print(f"{name}: {len(block['rows'])} rows in {block['seconds']:.0f} s", file=sys.stderr)
        report = {"made": made, "blocks": {name: blocks[name] for name in BLOCKS if name in blocks}}
        if file:
            write_text(file, json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(json.dumps(report, allow_nan=False) if options.json == "-" else as_markdown(report))
    return 0


def _kept(file: Path, made: dict[str, str]) -> dict[str, Any]:
    """The blocks that a report already holds. Raises RequestError where it cannot be written, LoadError where its
    figures are another machine's or it is no report."""
    from .bench.rows import as_markdown

    if not os.path.isdir(file.parent):
        raise RequestError("out", value=file, folder=file.parent)
    check_writable(file)
    if not os.path.exists(file):
        return {}
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        before, blocks = dict(report["made"]), dict(report["blocks"])
        as_markdown(report)  # every block is whole
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise LoadError(f"{file} is no report of this command, so it is not written over. Choose another.") from error
    differ = [name for name in made if before.get(name) != made[name]]
    if differ:
        was = ", ".join(f"{name} {before.get(name)}" for name in differ)
        raise LoadError(f"{file} holds figures made otherwise ({was}), which do not go into one table. Choose another.")
    return blocks
