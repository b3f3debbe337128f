"""A DreamBench folder as it is published (github.com/google/dreambooth, folder `dataset`): a folder of photos for each
subject, and `prompts_and_classes.txt` with each subject's class word and the two lists of 25 prompts."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..images import content_hash, open_picture
from ..request import RequestError
from .records import EvaluationError

LIST = "prompts_and_classes.txt"
PLACE = "{0} {1}"  # of DreamBooth's rare token and the class word in a prompt; here the word alone takes it
LIVE = ("cat", "dog")  # the classes that get the prompts for live subjects
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject. `photos` are the readable ones by name; the first is the fixed reference, all are compared with."""

    name: str
    word: str
    prompts: tuple[str, ...]
    photos: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a folder holds. `skipped` are sentences about what cannot be used, `missing` the subjects its list names
    and it has no folder of, `fingerprint` identifies prompts and photos."""

    subjects: tuple[Subject, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    fingerprint: str


def read_bench(folder: Path) -> Bench:
    """Reads a DreamBench folder, every photo once; raises EvaluationError where nothing can be measured with it."""
    if not folder.is_dir():
        raise EvaluationError(f"There is no folder {folder}. {_GET}")
    words, prompts = _read_list(folder / LIST)
    skipped, subjects, digest = [], [], hashlib.sha256()
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if place.name not in words:
            skipped.append(f"{place.name}: {LIST} has no class word for it, so it is left out. Add a line to use it.")
            continue
        photos = []
        for path in sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES):
            try:
                digest.update(f"{place.name}/{path.name} {content_hash(open_picture(path))}\n".encode())
                photos.append(path)
            except RequestError as error:
                skipped.append(f"{place.name}/{path.name}: {error}")
        if not photos:
            skipped.append(f"{place.name}: it has no readable photo, so it is left out.")
            continue
        word = words[place.name]
        made = tuple(prompt.replace(PLACE, word) for prompt in prompts[word.lower() in LIVE])
        digest.update("\n".join(made).encode())
        subjects.append(Subject(name=place.name, word=word, prompts=made, photos=tuple(photos)))
    if not subjects:
        why = f" {skipped[0]}" if skipped else ""
        raise EvaluationError(f"{folder} holds no photos of any subject that its {LIST} names.{why} {_GET}")
    here = {path.name for path in folder.iterdir() if path.is_dir()}
    return Bench(
        subjects=tuple(subjects), skipped=tuple(skipped), missing=tuple(name for name in words if name not in here),
        fingerprint=digest.hexdigest()[:12],
    )  # fmt: skip


def _read_list(path: Path) -> tuple[dict[str, str], dict[bool, tuple[str, ...]]]:
    """Class words by subject, and the prompts for objects (False) and live subjects (True), PLACE in them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is missing or unreadable. {_GET}") from error
    classes, _, rest = text.partition("\nPrompts")
    objects, _, live = rest.partition("Live Subject Prompts")
    pairs = [line.split(",") for line in classes.splitlines() if line.count(",") == 1]
    words = {name.strip(): word.strip() for name, word in pairs if name.strip() and word.strip()}
    words.pop("subject_name", None)
    prompts = {alive: _prompts(part, path) for alive, part in ((False, objects), (True, live))}
    if not words or not all(prompts.values()):
        raise EvaluationError(f"{path} is cut short or no such list: class words or prompts are missing. {_GET}")
    return words, prompts


def _prompts(part: str, path: Path) -> tuple[str, ...]:
    """The prompts of one of the lists, a line of Python each. Raises EvaluationError for a line that is none: left out,
    it would give those after it other numbers."""
    found = []
    for line in part.splitlines():
        if PLACE not in line or line.lstrip().startswith("#"):
            continue
        quoted = re.fullmatch(r"""\s*((['"])(?:\\.|(?!\2).)*\2)\.format\([^()]*\)\s*,?\s*""", line)
        try:
            found.append(ast.literal_eval(quoted[1] if quoted else ""))
        except SyntaxError as error:
            wanted = f"'a {PLACE} in the jungle'.format(unique_token, class_token),"
            raise EvaluationError(
                f"{path} has a line that is no prompt: {line.strip()}. Write it as {wanted}"
            ) from error
    return tuple(found)


_GET = "Take the folder `dataset` of github.com/google/dreambooth."
