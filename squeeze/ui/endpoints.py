"""The endpoints of the API, /generate and /recipe: their arguments as gradio's components, which are on no page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .handlers import Handlers
from .sent import Sent, SentSeveral

NUMBER = {"type": "number"}


def endpoints(handlers: Handlers) -> None:
    """Adds /generate and /recipe to the page that is being built."""
    profile = handlers.models.profile
    with gr.Row(visible=False):
        reference = gr.Image(label="Reference picture", type="filepath", image_mode=None)
        reference.data_model = Sent
        more = gr.File(label="Further reference pictures, where the model takes several", file_count="multiple")
        more.data_model = SentSeveral
        _listed(Sent.model_json_schema(), more)
        fields = {
            "reference": reference,
            "prompt": gr.Textbox(label="Prompt"),
            "balance": _listed(NUMBER, gr.JSON(list(profile.balance), label="Balance of the three stages")),
            "steps": gr.Number(profile.steps, label="Steps"),
            "cfg": gr.Number(profile.cfg, label="CFG, 1 = off"),
            "seed": gr.Number(0, label="Seed"),
            "stage_steps": _listed(
                NUMBER, gr.JSON(label="Steps of the three stages, null = from the profile's borders")
            ),
            "guidance": gr.Number(profile.guidance, label="Embedded guidance, where the model has it"),
            "height": gr.Number(profile.size, label="Height in pixels"),
            "width": gr.Number(profile.size, label="Width in pixels"),
            "eta": gr.Number(profile.eta, label="How much of each step's noise is drawn anew, 0 to 1"),
            "uncond": gr.Textbox(profile.uncond, label="What CFG sees without the prompt: lean or full"),
            "late_text": gr.Textbox(profile.late_text, label="The prompt's words where the balance is 1: drop or keep"),
            "earlier": _listed(
                {"type": "array", "items": NUMBER},
                gr.JSON([], label="Of a branched run: steps and balances before each branch"),
            ),
            "more": more,
        }
        for field in fields.values():
            if isinstance(field, gr.Number | gr.JSON):
                _or_null(field)
        outputs = [gr.File(label="PNG"), gr.JSON(label="Recipe")]
        gr.Button().click(
            handlers.generate, inputs_kwargs=fields, outputs=outputs, api_name="generate", api_visibility="public",
            preprocess=False, concurrency_limit=None,
        )  # fmt: skip
        file = gr.File(label="PNG or JSON", type="filepath")
        file.data_model = Sent
        gr.Button().click(
            handlers.recipe, inputs=file, outputs=gr.JSON(label="Recipe"), api_name="recipe", api_visibility="public",
            preprocess=False, concurrency_limit=None,
        )  # fmt: skip


def _listed(items: dict[str, Any], field: gr.components.Component) -> gr.components.Component:
    """The field as one that takes a list of `items`, a JSON schema. Gradio's own of any JSON is {}, and that of several
    files refers to a part that MCP does not have."""
    field.api_info = lambda: {"type": "array", "items": items}  # in no class of our own, whose files gradio looks for
    return field


def _or_null(field: gr.components.Component) -> None:
    """Lets a field be null, as it is in recipes: MCP refuses what the schema does not name. Not for texts, which
    gradio's page of the API would quote no more."""
    told = {"anyOf": [field.api_info(), {"type": "null"}]}
    field.api_info = lambda: told
