"""The DreamBench report as Markdown: our figures with intervals, and the paper's table beside them."""

from __future__ import annotations

from typing import Any

from .metrics import CHECKPOINTS, SCORES

PUBLISHED = {  # DINO-I, CLIP-I, CLIP-T as the paper reports them (arXiv 2605.26111), 30 subjects with 25 prompts
    "OminiControl": (0.5987, 0.7840, 0.3186),
    "OmniGen2": (0.7323, 0.8268, 0.3185),
    "UNO": (0.7484, 0.8354, 0.3040),
    "DreamO": (0.7537, 0.8356, 0.3086),
    "USO": (0.7478, 0.8263, 0.3213),
    "UMO": (0.7481, 0.8339, 0.3022),
    "Qwen-Image-Edit": (0.7317, 0.8261, 0.3158),
    "EasyRef": (0.6961, 0.8153, 0.3031),
    "the paper, MLLM only": (0.6788, 0.8228, 0.2988),
    "the paper": (0.7482, 0.8443, 0.3010),
}
FULL = 30  # subjects of DreamBench
TITLES = {
    "dino_i": "DINO-I", "clip_i": "CLIP-I", "clip_t": "CLIP-T",
    "dino_i_reference": "DINO-I, reference only", "clip_i_reference": "CLIP-I, reference only",
}  # fmt: skip


def as_markdown(figures: dict[str, Any]) -> str:
    """The report of a run; `figures` are dreambench.summary and what the command line adds."""
    lines = [f"# DreamBench: {_plain(figures['name'])}", "", *_conditions(figures), ""]
    lines += ["| score | mean | 95 % interval over subjects |", "|---|---:|---:|"]
    for key in SCORES:
        lines.append(f"| {TITLES[key]} | {figures['scores'][key]['mean']:.4f} | {between(figures['scores'][key])} |")
    lines += ["", "## Beside the paper's table", "", "| system | DINO-I | CLIP-I | CLIP-T |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {dino:.4f} | {clip:.4f} | {text:.4f} |" for name, (dino, clip, text) in PUBLISHED.items()]
    ours = [f"{figures['scores'][key]['mean']:.4f}" for key in SCORES[:3]]
    lines += [
        f"| **{_plain(figures['name'])}, measured here** | " + " | ".join(f"**{mean}**" for mean in ours) + " |",
        "",
    ]
    lines += [*_caution(figures), "", "## By subject", "", "| subject | pictures | DINO-I | CLIP-I | CLIP-T |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in figures["subjects"].items():
        means = " | ".join(f"{row[key]:.4f}" for key in SCORES[:3])
        lines.append(f"| {_plain(name)} | {row['cases']} | {means} |")
    skipped = [*figures["skipped_data"], *figures["skipped_pictures"]]
    if skipped:
        lines += ["", f"## Skipped: {len(skipped)}", "", *(f"- {_plain(sentence)}" for sentence in skipped)]
    return "\n".join(lines) + "\n"


def between(row: dict[str, Any]) -> str:
    """The interval of a score in words; one subject has none."""
    return "{:.4f} to {:.4f}".format(*row["interval"]) if row["interval"] else "none for one subject"


def _conditions(figures: dict[str, Any]) -> list[str]:
    metrics = figures["metrics"]
    said = [f"{figures['cases']} of {figures['asked']} pictures scored, of {len(figures['subjects'])} subjects"]
    if "revision" in figures:
        said.append(f"weights `{figures['revision']}`")
    said += [f"{name} {_plain(metrics[name]['source'])} (`{metrics[name]['weights']}`)" for name in CHECKPOINTS]
    lines = ["; ".join(said) + ". One reference a subject, its first photo by name."]
    lines.append(
        "DINO-I and CLIP-I are means over all photos of the subject, as in DreamBooth; over the reference alone they "
        "stand apart."
    )
    if figures["missing"]:
        lines.append(f"Not in the data: {', '.join(map(_plain, figures['missing']))}.")
    return lines


def _caution(figures: dict[str, Any]) -> list[str]:
    """Why the two cannot simply be compared, where they cannot."""
    why = []
    if any(figures["metrics"][name]["source"] != hub for name, hub in CHECKPOINTS.items()):
        why.append(f"the metric models came from a folder; the paper's are {' and '.join(CHECKPOINTS.values())}")
    if len(figures["subjects"]) < FULL:
        why.append(f"{len(figures['subjects'])} subjects were scored here, {FULL} there")
    if figures["cases"] < figures["possible"]:
        why.append(f"{figures['cases']} of the {figures['possible']} pairs of subject and prompt times seeds are in")
    if not why:
        return ["Same subjects and prompts as the paper's; its references and seeds are not published."]
    return [f"Not directly comparable: {'; '.join(why)}."]


def _plain(text: str) -> str:
    """Text from file names, that it neither ends a table's cell nor becomes markup."""
    return "".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in " ".join(str(text).split()))
