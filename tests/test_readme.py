"""What the README says of the project's files and commands is so."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from squeeze.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LAYOUT = README.split("## Layout", 1)[1].split("```")[1]


def blocks(text):
    """The lines of all fenced blocks."""
    return [line for block in text.split("```")[1::2] for line in block.splitlines()[1:]]


def listed():
    """Every path of the tree, folders with a slash."""
    parents, paths = [], set()
    for line in filter(str.strip, LAYOUT.splitlines()):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        parents = [*parents[:depth], name]
        paths.add("".join(parents))
    return paths


def tracked():
    """The files git knows or would take, as the tree should list them: sources whole, other folders by name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    wanted = set()
    for file in files:
        first, *rest = Path(file).parts
        if file in ("app.py", "requirements.txt") or (first == "squeeze" and rest[-1][:2] != "__"):
            wanted |= {file} | {f"{folder}/" for folder in map(str, Path(file).parents) if folder != "."}
        elif first in ("assets", "tests"):
            wanted.add(f"{first}/" if first == "tests" else f"assets/{rest[0]}/")
    return wanted | {"assets/"}


def test_the_tree_is_the_files_on_disk():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells which files belong to the project")
    assert listed() == tracked()


def test_every_file_of_the_tree_has_a_comment():
    bare = [line for line in LAYOUT.splitlines() if line.strip() and not line.strip().endswith("/")]
    assert not [line for line in bare if len(line.split()) < 3], "a file without a word on what it is"


def test_every_command_line_is_understood():
    lines = [line for line in blocks(README) if line.startswith("python -m squeeze")]
    assert len(lines) > 3
    for line in lines:
        _parser().parse_args(shlex.split(line)[3:])


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert not [path for path in pictures if not (ROOT / path).is_file()]


def test_the_code_example_runs(tmp_path, monkeypatch):
    code = README.split("```python", 1)[1].split("```", 1)[0]
    example = sorted((ROOT / "assets/examples").glob("*.png"))[0]
    (tmp_path / "toy.png").write_bytes(example.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_a_space_gets_the_pinned_gradio():
    pinned = re.search(r"^gradio==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE).group(1)
    assert f"sdk_version: {pinned}\n" in README
