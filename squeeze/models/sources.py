"""Where a profile's parts lie: in a folder, or in repositories of the Hugging Face hub, pinned to commits.

A folder holds the parts side by side, under our names or under those that a repository of the hub gives them. From the
hub only the folders that are needed are fetched; what is there already is used without asking the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .failures import reason, refusals, starved, trouble
from .profiles import Profile, Source

T = TypeVar("T")

PARTS = ("mllm", "tokenizer", "processor", "framing", "aggregation", "transformer", "vae")
WANTED = ("*.json", "*.safetensors", "*.txt")  # of a folder on the hub: no weights in other formats, no pictures
PREVIEW = "preview.safetensors"  # the preview map, in the VAE's folder
READ_BY = {  # one of each row's files; any other part by its config.json
    "tokenizer": [("tokenizer.json", "vocab.json"), ("tokenizer_config.json",)],
    "processor": [("preprocessor_config.json", "processor_config.json")],
}
SAMPLES, SAMPLE = 64, 4096  # places and bytes that are read of each file of weights to tell it from another


class LoadError(RuntimeError):
    """Weights that are missing, damaged or do not fit together; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A part's folder on this machine. `origin` says in a recipe what lies there, `restore` in a sentence how to get it
    again."""

    path: Path
    origin: str
    restore: str


def locate(profile: Profile, revisions: Mapping[str, str]) -> dict[str, Located]:
    """The folder of every part of a profile but an adapter's, by its name in PARTS; `revisions` replace the row's, by
    repository."""
    for repo in revisions:
        if repo not in {source.repo for source in profile.sources.values()}:
            known = ", ".join(sorted({source.repo for source in profile.sources.values()})) or "none"
            raise LoadError(
                f"Profile {profile.name!r} takes nothing from {repo!r}, so there is no revision of it to choose. Its "
                f"repositories on the hub: {known}."
            )
    wanted = {"framing": profile.framing, "aggregation": not (profile.native or profile.adapter)}
    names = [name for name in PARTS if wanted.get(name, True)]
    if profile.folder is not None:
        return {name: _in_folder(profile, name) for name in names}
    sources = {name: profile.sources[name] for name in names}
    sources = {
        name: replace(source, revision=revisions.get(source.repo, source.revision)) for name, source in sources.items()
    }
    repos = reversed(dict.fromkeys(source.repo for source in sources.values()))  # a gated DiT before an open MLLM's GBs
    roots = {repo: _fetched(repo, sources) for repo in repos}
    return {name: _on_hub(source, roots[source.repo]) for name, source in sources.items()}


def revisions_of(texts: Sequence[str]) -> dict[str, str]:
    """Revisions by repository, from texts like REPO@COMMIT."""
    for text in texts:
        if not all(text.rpartition("@")[::2]):
            raise LoadError(f"A revision is written REPO@COMMIT, not {text!r}.")
    return dict(text.rpartition("@")[::2] for text in texts)


def revision_of(parts: Mapping[str, Located], profile: Profile, adapter: str | None) -> str:
    """What identifies all weights in recipes and caches: a hash over the files of an embedded model, else over where
    each part comes from, with the adapter's own revision."""
    if not profile.sources:
        return revision(profile.folder)
    origins = [f"{name}={part.origin}" for name, part in sorted(parts.items())] + [f"adapter={adapter}"]
    return hashlib.sha256("\n".join(origins).encode()).hexdigest()[:12]


def revision(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 over all weights of a folder but the preview map, the probe and a critic,
    which change no picture."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        if path.name != PREVIEW and not name.startswith(("probe/", "critic/")):
            digest.update(name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read_record(folder: Path) -> dict[str, Any]:
    """What `training.json` in a folder of weights tells of their trainings, at least `runs` and `thresholds`, both
    empty where there is none. Raises LoadError where it is damaged."""
    path = folder / "training.json"
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept = {"runs": [], "thresholds": {}} | kept
        if not isinstance(kept["runs"], list) or not isinstance(kept["thresholds"], dict):
            raise ValueError("runs is a list, thresholds an object")
    except (OSError, ValueError, TypeError) as error:
        raise LoadError(f"{path} is damaged. Restore it from the project's repository, or remove it.") from error
    return kept


def check_size(profile: Profile) -> None:
    """Raises LoadError where the record beside an embedded model's weights says that they were trained for pictures of
    another size than the profile's, which the schedule's shift tells."""
    shift = read_record(profile.folder)["thresholds"].get("shift")
    if shift not in (None, profile.shift):
        raise LoadError(
            f"The weights in {profile.folder} were trained for pictures of another size than {profile.size} x "
            f"{profile.size} pixels: their schedule's shift is {shift}, this profile's {profile.shift}. Choose others."
        )


def check_weights(part: Located) -> None:
    """Raises LoadError that names the file where weights are missing or cut short, which a broken download leaves."""
    try:
        missing = _missing(part.path)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise LoadError(f"The index of the weights in {part.path} is damaged. {part.restore}") from error
    if missing:
        raise LoadError(f"The weights in {part.path} are incomplete: {missing[0]} is missing. {part.restore}")
    for path in sorted(part.path.glob("*.safetensors")):
        expected, found = read_part(part, lambda _, path=path: _promised(path)), path.stat().st_size
        if expected is not None and found < expected:
            raise LoadError(
                f"The weights in {part.path} are incomplete: {path.name} has {found:,} of {expected:,} bytes. "
                f"{part.restore}"
            )


def read_part(part: Located, reader: Callable[[Path], T]) -> T:
    """Runs a reader on a folder; whatever goes wrong with its files becomes a sentence that names the folder. What goes
    wrong with the device is raised as it is."""
    before = refusals()
    try:
        return reader(part.path)
    except Exception as error:  # readers of four libraries raise a dozen types for a damaged file
        if trouble(error):
            raise
        if refusals() > before:  # transformers goes on where it cannot quantise a weight, and then blames the file
            raise torch.OutOfMemoryError(f"The device was full while {part.path} was read.") from error
        if starved(error):
            raise full_host(part.path) from error
        why = reason(error)
        raise LoadError(f"The weights in {part.path} are damaged or incomplete ({why}). {part.restore}") from error


def full_host(folder: Path) -> LoadError:
    """Where the weights in a folder are not to blame."""
    return LoadError(
        f"This machine's memory was full while the weights in {folder} were read. Close what else runs on it, or take "
        f"one with more."
    )


def _missing(folder: Path) -> list[str]:
    """The files of weights that are not there, though an index of the folder names them, a link points to them, or the
    folder is a model's."""
    indices = [path for path in folder.glob("*.safetensors.index.json") if path.is_file()]
    named = {name for index in indices for name in json.loads(index.read_text())["weight_map"].values()}
    named |= {path.name for path in folder.glob("*.safetensors*")}
    if not named and (folder / "config.json").is_file():
        return ["its .safetensors file"]
    return sorted(name for name in named if not (folder / name).is_file())


def _promised(path: Path) -> int | None:
    """How long a file of weights is by its own header; None where it has none that can be read, which its reader will
    say."""
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return 8
        length = int.from_bytes(start, "little")
        if not 0 < length < 100_000_000:
            return None
        header = file.read(length)
    if len(header) < length:
        return 8 + length
    try:
        tensors = [row for name, row in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + max((row["data_offsets"][1] for row in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _in_folder(profile: Profile, name: str) -> Located:
    root = profile.folder
    if not root.is_dir():
        how = (
            "Name a folder with a copy of each part, or leave it out to fetch them from the hub."
            if profile.sources
            else "Clone the project whole, or train them with: python -m squeeze train plush --part vae"
        )
        raise LoadError(f"The weights of profile {profile.name!r} are missing: there is no folder {root}. {how}")
    names = _names(profile, name)
    path = next((root / folder for folder in names if (root / folder).is_dir()), root / names[0])
    repo = profile.sources[name].repo if name in profile.sources else "the project's repository"
    restore = f"Restore it from {repo}."
    if not path.is_dir():
        raise LoadError(f"Weights are missing: there is no folder {path}. {restore}")
    part = Located(path=path, origin="", restore=restore)
    return replace(part, origin=read_part(part, _fingerprint)) if profile.sources else part


def _names(profile: Profile, name: str) -> list[str]:
    """What a part's folder may be called: our word, or what its repository calls it. Tokenizer and processor lie with
    the MLLM unless the hub has them apart: another model's may stand there under these names, as CLIP's in FLUX's."""
    source, mllm = (profile.sources.get(part) for part in (name, "mllm"))
    if name in ("tokenizer", "processor") and source == mllm:
        return _names(profile, "mllm")
    return [name, *([source.subfolder] if source and source.subfolder else [])]


def _on_hub(source: Source, root: Path) -> Located:
    path = root / source.subfolder
    again = f"Restore it: hf download {source.repo} --revision {root.name} --force-download"
    if not path.is_dir():
        raise LoadError(
            f"{source.repo} has no folder {source.subfolder!r} at revision {source.revision!r}, or it was not fetched "
            f"and the hub cannot be reached now. Connect this machine, or name another revision with --revision "
            f"{source.repo}@COMMIT."
        )
    return Located(path=path, origin=f"{source.repo}@{root.name}/{source.subfolder}", restore=again)


def _fetched(repo: str, sources: Mapping[str, Source]) -> Path:
    """The snapshot of a repository with all folders that parts want of it; its name is the commit."""
    wanted = {name: source for name, source in sources.items() if source.repo == repo}
    revision = next(iter(wanted.values())).revision
    folders = dict.fromkeys(f"{source.subfolder}/" if source.subfolder else "" for source in wanted.values())
    patterns = [folder + pattern for folder in folders for pattern in WANTED]
    options = {"repo_id": repo, "revision": revision, "allow_patterns": patterns}
    try:
        here = Path(snapshot_download(**options, local_files_only=True))
        if all(_whole(here / source.subfolder, name) for name, source in wanted.items()):
            return here
    except (LocalEntryNotFoundError, ValueError, KeyError):
        pass  # not here, or not whole: ask the hub
    try:
        return Path(snapshot_download(**options))
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        # RuntimeError is what Xet's storage raises, ValueError an answer that is no JSON: some login page's
        raise LoadError(_why(error, repo, revision)) from error


def _whole(folder: Path, name: str) -> bool:
    """Whether a part's folder has what it is read by, and its weights: all in one file, or an index and every shard
    that it names."""
    rows = READ_BY.get(name, [("config.json",)])
    if not all(any((folder / file).is_file() for file in row) for row in rows) or _missing(folder):
        return False
    files = [path.name for path in folder.glob("*.safetensors*")]
    return name in ("tokenizer", "processor") or any("-of-" not in file for file in files)


def _why(error: Exception, repo: str, revision: str) -> str:
    page = f"https://huggingface.co/{repo}"
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its licence at {page}, then set HF_TOKEN to your token, or: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}. Choose one of {page}/commits/main with --revision {repo}@COMMIT"
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no repository {repo} on the hub, or it wants a login. See {page}, and: hf auth login"
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        return (
            f"The hub did not give {repo} ({reason(error.__cause__)}). Try again later, or see at {page} whether your "
            f"token may read it."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{repo} at revision {revision!r} is not whole on this machine and the hub cannot be reached. Connect it, "
            f"or copy the files over and name their folder with --weights."
        )
    return f"{repo} could not be fetched ({reason(error)}). Look at {page}, make room on the disk, and start again."


def _fingerprint(path: Path) -> str:
    """The first 16 hex digits of a hash over a folder's weights, sampled: names, sizes and bytes at SAMPLES places of
    each file, since reading tens of GB whole would take minutes at every start."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        if not file.is_file():
            continue  # a link to nothing, which check_weights names
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for place in range(SAMPLES):
                opened.seek(size * place // SAMPLES)
                digest.update(opened.read(SAMPLE))
    return digest.hexdigest()[:16]
