"""Results on disk, a file a case, and never mixed with those of another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_text


class EvaluationError(RuntimeError):
    """Data or results that do not serve; the message is a sentence for the user."""


class Records:
    """The results of one run in a folder: `run.json` says what made them, `cases/NAME.json` is one case's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, made: dict[str, Any]) -> None:
        """Marks the folder as the results of a run made by `made`; raises EvaluationError where it holds another's."""
        path = self.folder / "run.json"
        found = _read(path)
        if found is None and (path.exists() or (self.folder / "cases").exists()):
            raise EvaluationError(
                f"{path} is missing or damaged, so nobody knows whose results {self.folder} holds. {_AWAY}"
            )
        if found is not None and found != made:
            apart = [key for key in dict.fromkeys([*found, *made]) if found.get(key) != made.get(key)]
            shown = "; ".join(f"{key} {_short(found.get(key))} there, {_short(made.get(key))} now" for key in apart)
            raise EvaluationError(f"{self.folder} holds the results of another run: {shown}. {_AWAY}")
        if found is None:
            write_text(path, json.dumps(made, indent=1) + "\n")

    def read(self, name: str) -> dict[str, Any] | None:
        """A case's result; None where there is none that can be read."""
        return _read(self._path(name))

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Keeps a case's result."""
        write_text(self._path(name), json.dumps(result) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / "cases" / f"{name}.json"


_AWAY = "Choose another folder with --out, or move this one away."


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
