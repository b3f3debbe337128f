"""The page: layout, and which handler answers which press."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from ..balance import PRESETS
from ..images import MAX_BYTES
from ..models.loading import Models
from ..models.profiles import ASSETS
from ..pipeline import default_request, plan
from . import texts, views
from .handlers import Handlers, Parts, Sent, Shown
from .theme import theme

EXAMPLES = ASSETS / "examples"
WAITING_ROOM = 20  # visitors that may wait; the next one is told that the queue is full
CACHE = (600, 3600)  # every ten minutes, uploads and pictures older than an hour are deleted
NAMES = ("meaning", "both", "identity")
DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

PRESET_TO_SLIDERS = f"(name, ...now) => ({json.dumps(PRESETS)})[name] ?? now"
SLIDERS_TO_PRESET = f"""(...now) => Object.entries({json.dumps(PRESETS)})
    .find(([_, preset]) => preset.every((b, stage) => b === now[stage]))?.[0] ?? {json.dumps(texts.CUSTOM)}"""
PICK = """element.addEventListener('click', (click) => {
    const button = click.target.closest('button');
    if (button) trigger('pick', {index: Number(button.dataset.index)});
})"""


def build(models: Models) -> gr.Blocks:
    """The whole page for loaded models."""
    profile = models.profile
    examples = sorted(EXAMPLES.glob("*.png"))
    handlers = Handlers(models, examples)
    with gr.Blocks(title=texts.TITLE, fill_width=True, analytics_enabled=False, delete_cache=CACHE) as page:
        gr.HTML(views.header(profile.title), elem_id="top", padding=False, apply_default_css=False)
        with gr.Row(elem_id="desk"):
            with gr.Column(elem_id="ask", min_width=0):
                form, buttons = _ask(handlers)
            with gr.Column(elem_id="result", min_width=0):
                parts_but_seed = _result(models)
            with gr.Column(elem_id="tune", min_width=0):
                form |= _tune(models)
        if profile.name in texts.ABOUT:
            with gr.Accordion(texts.ABOUT_TITLE[profile.name], open=False, elem_id="about"):
                gr.Markdown(texts.ABOUT[profile.name])
        parts = Parts(**parts_but_seed, seed=form["seed"])
        _wire(handlers, form, parts, *buttons)
        _api(handlers)
    return page.queue(max_size=WAITING_ROOM)


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Starts to serve the page and gives its address. Uploads up to twice our own limit still get our own sentence."""
    _, address, _ = page.launch(
        server_name=host, server_port=port, ssr_mode=False, run_history=False, footer_links=["api"],
        share=False, quiet=True, prevent_thread_lock=True,
        max_file_size=2 * MAX_BYTES, allowed_paths=[str(EXAMPLES)],
        theme=theme(), css_paths=[Path(__file__).with_name("style.css")],
    )  # fmt: skip
    return address


def _ask(handlers: Handlers) -> tuple[dict[str, Any], tuple[gr.Button, gr.Button]]:
    """Subject, prompt, and the buttons that start and stop."""
    with gr.Row(elem_id="subject"):
        reference = gr.Image(
            label="Subject", type="filepath", image_mode=None, format="png", sources=["upload", "clipboard"],
            placeholder=texts.UPLOAD, buttons=[], elem_id="reference", alt_text="The subject you gave",
        )  # fmt: skip
        reference.data_model = Sent
        if handlers.examples:
            gallery = gr.HTML(
                views.examples(handlers.examples),
                js_on_load=PICK,
                elem_id="examples",
                padding=False,
                apply_default_css=False,
            )
            gallery.pick(handlers.pick, outputs=reference, **LIGHT)
    prompt = gr.Textbox(label="Prompt", placeholder=texts.PLACEHOLDER, lines=1, max_lines=4, elem_id="prompt")
    with gr.Row(elem_id="ideas"):
        for text in texts.PROMPTS.get(handlers.models.profile.name, ()):
            idea = gr.Button(text, size="sm", elem_classes="idea")
            idea.click(fn=None, js=f"() => {json.dumps(text)}", outputs=prompt)
    with gr.Row(elem_id="go"):
        start = gr.Button("Generate", variant="primary", elem_id="generate", min_width=0, scale=3)
        stop = gr.Button("Stop", variant="secondary", elem_id="stop", min_width=0, scale=1, interactive=False)
    return {"reference": reference, "prompt": prompt}, (start, stop)


def _result(models: Models) -> dict[str, Any]:
    """The picture, the stages' pictures, the bar of steps and the status line."""
    counts = plan(models.profile, default_request(models.profile, prompt="", references=()))[1]
    with gr.Row(elem_id="pictures"):
        view = gr.HTML(views.empty(), elem_id="view", padding=False, apply_default_css=False)
        kept = gr.HTML(views.kept((None, None, None)), elem_id="kept", padding=False, apply_default_css=False)
    bar = gr.HTML(views.bar(counts, 0), elem_id="bar", padding=False, apply_default_css=False)
    with gr.Row(elem_id="foot"):
        status = gr.HTML(views.status(texts.READY, "idle"), elem_id="status", padding=False, apply_default_css=False)
        download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download", min_width=0, size="sm")
    return {"view": view, "kept": kept, "bar": bar, "status": status, "download": download}


def _tune(models: Models) -> dict[str, Any]:
    """Balance, and under Advanced what the model has besides."""
    profile, limits = models.profile, models.profile.limits
    here = next((name for name, preset in PRESETS.items() if preset == profile.balance), texts.CUSTOM)
    preset = gr.Radio([*PRESETS, texts.CUSTOM], value=here, label="Balance", info=texts.BALANCE, elem_id="preset")
    sliders = [
        gr.Slider(
            0, 1, value=profile.balance[stage], step=0.05, label=f"{stage + 1} · {name}", info=what,
            elem_id=f"balance-{stage + 1}", elem_classes="balance", buttons=[],
        )
        for stage, (name, what) in enumerate(texts.STAGES)
    ]  # fmt: skip
    preset.input(fn=None, js=PRESET_TO_SLIDERS, inputs=[preset, *sliders], outputs=sliders)
    for slider in sliders:
        slider.input(fn=None, js=SLIDERS_TO_PRESET, inputs=sliders, outputs=preset)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        steps = gr.Slider(1, limits.steps, value=profile.steps, step=1, label="Steps", elem_id="steps", buttons=[])
        cfg = gr.Slider(
            1, limits.cfg, value=profile.cfg, step=0.1, label="CFG", elem_id="cfg", buttons=[],
            info="How hard the prompt pulls; 1 turns it off and halves the time",
        )  # fmt: skip
        with gr.Row(elem_id="luck"):
            seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=0)
            random = gr.Checkbox(True, label="A new seed each time", elem_id="random", min_width=0)
        uncond = gr.Radio(
            [("nothing", "lean"), ("the picture's details", "full")], value=profile.uncond, elem_id="uncond",
            label="Without the prompt, CFG sees",
        )  # fmt: skip
        late_text = gr.Radio(
            [("leave out", "drop"), ("keep", "keep")], value=profile.late_text, elem_id="late-text",
            label="The prompt's words where the balance is 1",
        )  # fmt: skip
        form = {"steps": steps, "cfg": cfg, "seed": seed, "random": random, "uncond": uncond, "late_text": late_text}
        if models.dit.model.config.guidance_embeds:
            form["guidance"] = gr.Slider(
                0, limits.guidance, value=profile.guidance, step=0.1, label="Guidance", buttons=[]
            )
    return form | dict(zip(NAMES, sliders, strict=True))


def _wire(handlers: Handlers, form: dict[str, Any], parts: Parts, start: gr.Button, stop: gr.Button) -> None:
    """Generate, Enter and Stop. The buttons change over at once, since the run itself may have to queue."""

    def running() -> Shown:
        return {
            start: gr.Button(interactive=False), stop: gr.Button(interactive=True),
            parts.status: views.status(texts.QUEUED, "busy"),
        }  # fmt: skip

    def idle() -> Shown:
        return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

    def stopped() -> Shown:
        return idle() | {parts.status: views.status(texts.STOPPED, "stopped")}

    def run(**given: Any) -> Iterator[Shown]:
        with closing(handlers.run(parts, given)) as changes:
            yield from changes

    begun = gr.on([start.click, form["prompt"].submit], running, outputs=[start, stop, parts.status], **LIGHT)
    going = begun.then(
        run, inputs_kwargs=form, outputs=list(vars(parts).values()), api_visibility="private",
        show_progress="full", show_progress_on=parts.status, preprocess=False, **DEVICE,
    )  # fmt: skip
    for ended in (going.success, going.failure):  # .then alone does not follow an error
        ended(idle, outputs=[start, stop], **LIGHT)
    stop.click(fn=None, cancels=[going]).then(stopped, outputs=[start, stop, parts.status], **LIGHT)
    reference = form["reference"]
    reference.upload(
        handlers.look, inputs=reference, outputs=[reference, parts.status], api_visibility="private",
        show_progress="hidden", preprocess=False, concurrency_limit=None,  # queued, or gr.Warning is lost
    )  # fmt: skip


def _api(handlers: Handlers) -> None:
    """The endpoint /generate; its fields are on no page."""
    profile = handlers.models.profile
    with gr.Row(visible=False):
        reference = gr.Image(label="Reference picture", type="filepath", image_mode=None)
        reference.data_model = Sent
        fields = {
            "reference": reference,
            "prompt": gr.Textbox(label="Prompt"),
            "balance": gr.JSON(list(profile.balance), label="Balance of the three stages"),
            "steps": gr.Number(profile.steps, label="Steps"),
            "cfg": gr.Number(profile.cfg, label="CFG, 1 = off"),
            "seed": gr.Number(0, label="Seed"),
            "stage_steps": gr.JSON(label="Steps of the three stages, null = from the profile's borders"),
            "guidance": gr.Number(profile.guidance, label="Embedded guidance, where the model has it"),
            "height": gr.Number(profile.size, label="Height in pixels"),
            "width": gr.Number(profile.size, label="Width in pixels"),
            "uncond": gr.Textbox(profile.uncond, label="What CFG sees without the prompt: lean or full"),
            "late_text": gr.Textbox(profile.late_text, label="The prompt's words where the balance is 1: drop or keep"),
            "earlier": gr.JSON([], label="Of a branched run: rows of steps and balances that held up to there"),
        }
        outputs = [gr.File(label="PNG"), gr.JSON(label="Recipe")]
        gr.Button().click(
            handlers.call, inputs_kwargs=fields, outputs=outputs, api_name="generate", api_visibility="public",
            preprocess=False, **DEVICE,
        )  # fmt: skip
