"""The page: its layout, and the server behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse
from gradio import processing_utils

from ..balance import PRESETS, preset_of
from ..images import MAX_BYTES
from ..models.loading import Models
from ..models.profiles import ASSETS
from ..pipeline import default_request, plan
from . import restore, subjects, texts, views, wiring
from .bounds import bounded
from .check import COARSE
from .endpoints import endpoints
from .fetch import fetching
from .film import LISTENERS, film, history
from .handlers import Handlers
from .saving import saving
from .sent import Sent, path_of
from .show import Parts
from .subjects import Subject
from .theme import theme
from .timeline import timeline
from .visits import Visits

HERE = Path(__file__).parent
EXAMPLES = ASSETS / "examples"
HISTORY_KEY = "squeeze-history"
AWAY = 3600.0  # seconds since its last use after which a visit is forgotten whose page is not heard of
SESSIONS = 1000  # visits that gradio remembers, the latest ones, with some 200 kB for each; its own bound is 10,000

PICK = """element.addEventListener('click', (click) => {
    const button = click.target.closest('button');
    if (button) trigger('pick', {index: Number(button.dataset.index)});
})"""

OFFER = """element.addEventListener('click', (click) => {
    const button = click.target.closest('.offer');
    if (!button) return;
    const preset = document.querySelector(`#preset input[value="${button.dataset.preset}"]`);
    if (preset.checked) preset.dispatchEvent(new Event('input', {bubbles: true})); // what held before a branch goes too
    else preset.click();
})"""

TOLD = f"""
const channel = new BroadcastChannel({json.dumps(HISTORY_KEY)});
channel.onmessage = (message) => trigger('told', {{past: message.data}});
window.squeezeTold = (past) => channel.postMessage(past);
"""


# Where a browser denies its storage, as to a page in another's frame, the history lasts as long as the page.
STORAGE = """try { localStorage.length } catch {
    const kept = new Map();
    Object.defineProperty(window, 'localStorage', {value: {
        getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, String(value)),
        removeItem: (key) => kept.delete(key), clear: () => kept.clear(), key: (n) => [...kept.keys()][n] ?? null,
        get length() { return kept.size },
    }});
}"""


def build(models: Models) -> gr.Blocks:
    """The whole page for loaded models."""
    profile = models.profile
    handlers = Handlers(models, sorted(EXAMPLES.glob("*.png")))
    pixels = "coarse" if profile.size <= COARSE else ""  # few enough that each stays visible when enlarged
    with gr.Blocks(title=texts.TITLE, fill_width=True, analytics_enabled=False) as page:
        gr.HTML(views.header(profile.title), elem_id="top", padding=False, apply_default_css=False)
        with gr.Row(elem_id="desk", elem_classes=pixels):
            with gr.Column(elem_id="ask", min_width=0):
                form, asked, gallery, buttons = _ask(handlers)
            with gr.Column(elem_id="result", min_width=0):
                shown = _result(models)
            with gr.Column(elem_id="tune", min_width=0):
                tuned, preset, sliders = _tune(models)
        with gr.Tabs(elem_id="more", elem_classes=pixels):
            more, source = _more()
        if profile.name in texts.ABOUT:
            with gr.Accordion(texts.ABOUT_TITLE[profile.name], open=False, elem_id="about"):
                gr.Markdown(texts.ABOUT[profile.name])
        form |= tuned | {"timeline": shown["timeline"]}
        parts = Parts(**shown, **more, form=form, preset=preset, sliders=sliders)
        going = gr.State()  # the run that is asked for, waits or is drawn; None while there is none
        wiring.pictures(handlers, asked, gallery, parts, going)
        wiring.balance(handlers, parts)
        wiring.runs(handlers, parts, source, asked, going, *buttons)
        restore.memory(page, handlers, parts, source, asked, going)
        saving(parts, source["save"])
        endpoints(handlers)

        async def leave(request: gr.Request) -> None:
            """The page is not heard of: its tab is closed, or its device sleeps and will come back."""
            forget(handlers.visits, str(request.session_hash), asyncio.get_running_loop())

        page.unload(leave)
    return page.queue()  # which gives every run to the line at the device at once, see line.py


def forget(visits: Visits, session: str, loop: asyncio.AbstractEventLoop) -> None:
    """Forgets a visit once it was not used for AWAY."""
    if left := visits.leave(session, AWAY):
        loop.call_later(left, forget, visits, session, loop)


def launch(page: gr.Blocks, host: str, port: int, *, mcp: bool = False) -> str:
    """Starts to serve the page, with `mcp` also an MCP server of both endpoints, and gives the address. Uploads up to
    twice our own limit still get our own sentence; all files together stay within a bound."""
    processing_utils.async_ssrf_protected_download = fetching(page)
    _, address, _ = page.launch(
        server_name=host, server_port=port, ssr_mode=False, run_history=False, footer_links=["api"],
        share=False, quiet=True, prevent_thread_lock=True, mcp_server=mcp,
        max_file_size=2 * MAX_BYTES, state_session_capacity=SESSIONS, allowed_paths=[str(EXAMPLES)],
        app_kwargs={"lifespan": bounded(page), "exception_handlers": {TypeError: _wrong_arguments}},
        theme=theme(), css_paths=[HERE / f"{name}.css" for name in ("style", "check", "crop", "film")],
        js=(HERE / "keys.js").read_text(), head=f"<script>{STORAGE}</script>",
    )  # fmt: skip
    if mcp:
        server = page.mcp_server_obj
        server._execute_tool_without_progress = _outputs
        server.postprocess_output_data = partial(_told, server.postprocess_output_data)
        server.convert_strings_to_filedata = partial(_files, page, server.convert_strings_to_filedata)
    return address


def _wrong_arguments(request: Request, error: TypeError) -> JSONResponse:
    """A call whose arguments are not those of the endpoint, which gradio (6.31) takes for a fault of the server."""
    if "/gradio_api/call/" not in request.url.path:
        raise error
    return JSONResponse({"error": str(error)}, 422)


def _files(
    page: gr.Blocks, convert: Callable[[Any, list[list[Any]]], Any], sent: dict[str, Any], places: list[list[Any]]
) -> Any:
    """What an agent sent, with files where the schema has them. Gradio (6.31) looks for those of a list under the
    schema's word "items" and not under their numbers, and would leave them strings; and it forgets what it wrote."""
    lists = [place[0] for place in places if place[1:] == ["items"]]
    taken = convert(sent, places + [[name, number] for name in lists for number in range(len(sent.get(name, ())))])
    files = [one for value in taken.values() for one in (value if isinstance(value, list) else [value])]
    page.upload_file_set.update(path for path in map(path_of, files) if path and not path.startswith("http"))
    return taken


async def _outputs(job: Any) -> list[Any]:
    """What a run gives an agent that asked for no word of its progress. Gradio's own (6.31) takes the outputs as one,
    and the agent would get their repr and no picture."""
    async for update in job:
        if update.type == "output" and update.final:
            if not update.success:
                raise RuntimeError(update.outputs.get("error") or "The run failed.")
            return update.outputs["data"]
    raise job.exception() or RuntimeError("The run ended without a picture.")


def _told(tell: Callable[[Any, str], Any], outputs: list[Any], address: str) -> Any:
    """What an agent is told of a run: files as gradio does, a recipe as JSON, which gradio would write as Python."""
    plain = [output if "path" in output else json.dumps(output, ensure_ascii=False) for output in outputs]
    return tell(plain, address)


def _ask(handlers: Handlers) -> tuple[dict[str, Any], list[Subject], gr.HTML, tuple[gr.Button, gr.Button]]:
    """Subject and what the models get of it, prompt, and the buttons that start and stop."""
    boxes = []
    with gr.Row(elem_id="subject"):
        boxes.append(subjects.box(1))
        gallery = gr.HTML(
            views.examples(handlers.examples), js_on_load=PICK, elem_id="examples", padding=False,
            apply_default_css=False,
        )  # fmt: skip
    asked = [subjects.subject(boxes[0], 1)]
    if (most := handlers.models.profile.limits.references) > 1:
        with gr.Row(elem_id="others"):
            for number in range(2, most + 1):
                with gr.Column(min_width=0, elem_classes="other"):
                    asked.append(subjects.subject(subjects.box(number), number))
    prompt = gr.Textbox(label="Prompt", placeholder=texts.PLACEHOLDER, lines=1, max_lines=4, elem_id="prompt")
    with gr.Row(elem_id="ideas"):
        for text in texts.PROMPTS.get(handlers.models.profile.name, ()):
            idea = gr.Button(text, size="sm", elem_classes="idea")
            idea.click(fn=None, js=f"() => {json.dumps(text)}", outputs=prompt)
    with gr.Row(elem_id="go"):
        start = gr.Button("Generate", variant="primary", elem_id="generate", min_width=0, scale=3)
        stop = gr.Button("Stop", variant="secondary", elem_id="stop", min_width=0, scale=1, interactive=False)
    pictures = {subjects.field(number): one.picture for number, one in enumerate(asked, 1)}
    return pictures | {"prompt": prompt}, asked, gallery, (start, stop)


def _result(models: Models) -> dict[str, Any]:
    """The picture, the stages' pictures, the timeline, the status line and the filmstrip."""
    counts = plan(models.profile, default_request(models.profile, prompt="", references=()))[1]
    with gr.Row(elem_id="pictures"):
        view = gr.HTML(views.empty(), elem_id="view", padding=False, apply_default_css=False)
        kept = gr.HTML(views.kept((None, None, None)), elem_id="kept", padding=False, apply_default_css=False)
    control = timeline(counts, models.profile.balance)
    strip = gr.HTML(
        film(None), js_on_load=LISTENERS.read_text(), elem_id="film", padding=False, apply_default_css=False
    )
    with gr.Row(elem_id="foot"):
        status = gr.HTML(
            views.status(texts.READY, "idle"), js_on_load=OFFER, elem_id="status", padding=False,
            apply_default_css=False,
        )  # fmt: skip
        branch = gr.Button(texts.BRANCH, interactive=False, elem_id="branch", min_width=0, size="sm")
        download = gr.Button("Download PNG", interactive=False, elem_id="download", min_width=0, size="sm")
    return {
        "view": view, "kept": kept, "timeline": control, "status": status, "download": download, "film": strip,
        "branch": branch, "chosen": gr.State(),
    }  # fmt: skip


def _tune(models: Models) -> tuple[dict[str, Any], gr.Radio, list[gr.Slider]]:
    """Balance, and under Advanced what the model has besides."""
    profile, limits = models.profile, models.profile.limits
    here = preset_of(profile.balance) or texts.CUSTOM
    preset = gr.Radio([*PRESETS, texts.CUSTOM], value=here, label="Balance", info=texts.BALANCE, elem_id="preset")
    sliders = [
        gr.Slider(
            0, 1, value=profile.balance[stage], step=0.05, label=f"{stage + 1} · {name}", info=what,
            elem_id=f"balance-{stage + 1}", elem_classes="balance", buttons=[],
        )
        for stage, (name, what) in enumerate(texts.STAGES)
    ]  # fmt: skip
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        steps = gr.Slider(1, limits.steps, value=profile.steps, step=1, label="Steps", elem_id="steps", buttons=[])
        cfg = gr.Slider(
            1, limits.cfg, value=profile.cfg, step=0.1, label="CFG", elem_id="cfg", buttons=[],
            info="How hard the prompt pulls; 1 turns it off and halves the time",
        )  # fmt: skip
        eta = gr.Slider(
            0, 1, value=profile.eta, step=0.05, label="New noise", elem_id="eta", buttons=[],
            info="How much of each step's noise is drawn anew: shapes come out sounder; 0 is Euler's method",
        )  # fmt: skip
        size = {}
        if limits.least_size < limits.most_size:
            with gr.Row(elem_id="size"):
                size = {
                    name: gr.Slider(
                        limits.least_size, limits.most_size, value=profile.size, step=limits.multiple,
                        label=f"{name.capitalize()}, px", elem_id=name, min_width=0, buttons=[],
                    )
                    for name in ("width", "height")
                }  # fmt: skip
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
        form = {"steps": steps, "cfg": cfg, **size, "seed": seed, "random": random}
        form |= {"eta": eta, "uncond": uncond, "late_text": late_text}
        if models.dit.embeds_guidance:
            form["guidance"] = gr.Slider(
                0, limits.guidance, value=profile.guidance, step=0.1, label="Guidance", buttons=[]
            )
    return form, preset, sliders


def _more() -> tuple[dict[str, Any], dict[str, Any]]:
    """The tabs below: the history, the comparison, and the recipe with its ways in and out."""
    with gr.Tab("History", elem_id="tab-history"):
        past = gr.BrowserState([], storage_key=HISTORY_KEY, secret="recipes are no secret")
        strip = gr.HTML(
            history([], {}), js_on_load=PICK + TOLD, elem_id="history", padding=False, apply_default_css=False
        )
        clear = gr.Button("Clear history", size="sm", elem_id="clear", min_width=0)
    with gr.Tab("Compare", elem_id="tab-compare"):
        _said(texts.NO_COMPARE)
        compare = gr.ImageSlider(
            show_label=False, format="png", interactive=False, elem_id="compare", buttons=[], max_height=560
        )
        sides = "".join(f"<span>{side}</span>" for side in texts.COMPARE)
        gr.HTML(f'<p class="sides">{sides}</p>', padding=False, apply_default_css=False)
    with gr.Tab("Recipe", elem_id="tab-recipe"), gr.Row(elem_id="recipe"):
        with gr.Column(min_width=0):
            file = gr.File(label=texts.RECIPE_FILE, type="filepath", height=110, elem_id="recipe-file")
            file.data_model = Sent
            text = gr.Textbox(label=texts.RECIPE_TEXT, lines=3, max_lines=6, elem_id="recipe-text")
            with gr.Row(elem_id="recipe-go"):
                use = gr.Button("Use this recipe", size="sm", elem_id="use-recipe", min_width=0)
        with gr.Column(min_width=0, elem_id="forms"):
            _said(texts.NO_FORMS)
            forms = {
                name: gr.Textbox(
                    label=label, interactive=False, lines=2, max_lines=6, buttons=["copy"], elem_id=f"recipe-{name}",
                    placeholder=texts.NO_FORMS,  # while it shows, style.css hides the forms
                )
                for name, label in texts.RECIPE_FORMS
            }  # fmt: skip
            with gr.Row(elem_id="recipe-out"):
                verify = gr.Button("Run again and verify", size="sm", elem_id="verify", min_width=0)
                save = gr.Button("Download JSON", size="sm", elem_id="save-recipe", min_width=0)
    parts = {"compare": compare, "recipe": gr.State(), "forms": forms}
    source = {"file": file, "text": text, "use": use, "verify": verify, "save": save}
    return parts, source | {"past": past, "history": strip, "clear": clear}


def _said(sentence: str) -> None:
    """What an empty place says of itself."""
    gr.HTML(f'<p class="none">{sentence}</p>', padding=False, apply_default_css=False)
