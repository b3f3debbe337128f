"""The gallery of a DreamBench run: one static page and its pictures in a folder that needs nothing else."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ..files import whole, write_text
from ..images import open_picture
from .comparison import TITLES, between
from .dreambench import Case, Drawn, Found
from .metrics import SCORES
from .records import Records
from .subjects import Subject

SIDE = 320  # pixels of a picture's long side on the page, twice what is shown for dense screens
STYLE = Path(__file__).with_name("gallery.css")


def write_gallery(
    folder: Path, cases: list[Case], source: Drawn | Found, records: Records, figures: dict[str, Any]
) -> Path:
    """Writes `folder`/index.html and small copies of the scored pictures and references; returns the page's path."""
    sections = []
    for subject in sorted({case.subject.name: case.subject for case in cases}.values(), key=lambda one: one.name):
        mine = sorted((case for case in cases if case.subject == subject), key=lambda case: (case.number, case.seed))
        shown = [(case, records.read(case.name) or {}) for case in mine]
        scored = [(case, result) for case, result in shown if "picture" in result]
        if not scored:
            continue
        address = _copy(open_picture(subject.photos[0]), folder, f"{subject.name}/reference.jpg")
        items = [
            _item(case, result, _copy(open_picture(source.path(case)), folder, f"{case.name}.jpg"))
            for case, result in scored
        ]
        sections.append(_section(len(sections), subject, address, figures["subjects"][subject.name], items))
    path = folder / "index.html"
    write_text(path, _page(figures, sections))
    return path


def _copy(picture: Image.Image, folder: Path, name: str) -> str:
    """Puts a small copy into the folder; returns its address on the page."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    with whole(folder / name) as part:
        small.save(part, format="JPEG", quality=92, subsampling=0)
    return escape(quote(name))


def _item(case: Case, result: dict[str, Any], address: str) -> str:
    prompt = escape(case.prompt)
    scores = " ".join(f"<span>{TITLES[key]} {result[key]:.3f}</span>" for key in SCORES[:3])
    return (
        f'<li><figure><img src="{address}" alt="Picture for “{prompt}”, seed {case.seed}" loading="lazy">'
        f"<figcaption>{prompt}<small>{scores}</small><small>seed {case.seed}</small></figcaption></figure></li>"
    )


def _section(number: int, subject: Subject, address: str, row: dict[str, Any], items: list[str]) -> str:
    means = "<br>".join(f"{TITLES[key]} {row[key]:.4f}" for key in SCORES[:3])
    alt = f"The reference: a photo of the {escape(subject.word)} “{_spoken(subject.name)}”"
    return (
        f'<section id="subject-{number}" aria-labelledby="title-{number}"><div class="subject">'
        f'<h2 id="title-{number}">{_spoken(subject.name)}</h2>'
        f'<img src="{address}" alt="{alt}" loading="lazy">'
        f"<p>reference<br>{means}</p></div>"
        f'<ul class="pictures">{"".join(items)}</ul></section>'
    )


def _spoken(name: str) -> str:
    return escape(name.replace("_", " "))


def _page(figures: dict[str, Any], sections: list[str]) -> str:
    title = f"DreamBench: {escape(figures['name'])}"
    cards = []
    for key in SCORES[:3]:
        row = figures["scores"][key]
        mean = f"{row['mean']:.4f}<small>95 %: {between(row)}</small>"
        cards.append(f"<div><dt>{TITLES[key]}</dt><dd>{mean}</dd></div>")
    links = [f'<a href="#subject-{place}">{_spoken(name)}</a>' for place, name in enumerate(figures["subjects"])]
    skipped = len(figures["skipped_data"]) + len(figures["skipped_pictures"])
    aside = f", {skipped} skipped (see the report)" if skipped else ""
    counted = f"{figures['cases']} of {figures['asked']} pictures, {len(figures['subjects'])} subjects"
    sources = ", ".join(f"{name} from {escape(one['source'])}" for name, one in figures["metrics"].items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{STYLE.read_text(encoding='utf-8')}</style></head>\n<body><header>"
        f"<h1>{title}</h1><p>{counted}{aside}. Scored with {sources}."
        f'</p><dl>{"".join(cards)}</dl><nav aria-label="Subjects">{"".join(links)}</nav></header>\n<main>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )
