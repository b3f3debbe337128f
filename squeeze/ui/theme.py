"""The page's colours and type as a Gradio theme; layout and the run's own pieces stand in style.css.

Paper and ink, and no colour but the three stages': blue for meaning, violet for both, coral for identity.
"""

from __future__ import annotations

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")

STONE = gr.themes.Color(
    name="stone", c50="#faf8f4", c100="#f3f0ea", c200="#e6e1d8", c300="#d5cec2", c400="#a79f93", c500="#7d756b",
    c600="#655e55", c700="#48423b", c800="#2b2723", c900="#1f1c19", c950="#161412",
)  # fmt: skip

COLOURS: dict[str, tuple[str, str]] = {  # variable: (light, dark)
    "body_background_fill": ("#faf8f4", "#161412"),
    "body_text_color": ("#211d1a", "#f2ede5"),
    "body_text_color_subdued": ("#6b645b", "#a89f94"),
    "background_fill_primary": ("#ffffff", "#1f1c19"),
    "background_fill_secondary": ("#f3f0ea", "#26231f"),
    "block_background_fill": ("transparent", "transparent"),
    "block_border_color": ("#e6e1d8", "#37322c"),
    "block_label_text_color": ("#211d1a", "#f2ede5"),
    "block_title_text_color": ("#211d1a", "#f2ede5"),
    "block_info_text_color": ("#6b645b", "#a89f94"),
    "border_color_primary": ("#e6e1d8", "#37322c"),
    "border_color_accent": ("#211d1a", "#f2ede5"),
    "color_accent_soft": ("#f3f0ea", "#2b2723"),
    "link_text_color": ("#2f57c4", "#8fa8ff"),
    "input_background_fill": ("#ffffff", "#1f1c19"),
    "input_background_fill_focus": ("#ffffff", "#1f1c19"),
    "input_border_color": ("#dcd6cb", "#3d3831"),
    "input_border_color_focus": ("#211d1a", "#f2ede5"),
    "input_placeholder_color": ("#736b61", "#968d82"),
    "button_primary_background_fill": ("#211d1a", "#f2ede5"),
    "button_primary_background_fill_hover": ("#3a342f", "#ffffff"),
    "button_primary_text_color": ("#faf8f4", "#161412"),
    "button_primary_border_color": ("#211d1a", "#f2ede5"),
    "button_secondary_background_fill": ("#ffffff", "#26231f"),
    "button_secondary_background_fill_hover": ("#f3f0ea", "#312d28"),
    "button_secondary_text_color": ("#211d1a", "#f2ede5"),
    "button_secondary_border_color": ("#dcd6cb", "#3d3831"),
    "checkbox_background_color": ("#ffffff", "#1f1c19"),
    "checkbox_background_color_selected": ("#211d1a", "#f2ede5"),
    "checkbox_border_color": ("#b9b1a5", "#5b544b"),
    "checkbox_label_background_fill": ("#ffffff", "#26231f"),
    "checkbox_label_background_fill_selected": ("#211d1a", "#f2ede5"),
    "checkbox_label_text_color_selected": ("#faf8f4", "#161412"),
    "checkbox_label_border_color": ("#dcd6cb", "#3d3831"),
    "slider_color": ("#211d1a", "#f2ede5"),
}


def theme() -> gr.themes.Base:
    """The theme; fonts are the system's own, so nothing is fetched."""
    base = gr.themes.Base(
        primary_hue=STONE, secondary_hue=STONE, neutral_hue=STONE, font=SANS, font_mono=MONO,
        text_size="sm", spacing_size="md", radius_size="md",
    )  # fmt: skip
    values: dict[str, str] = {}
    for name, (light, dark) in COLOURS.items():
        values[name], values[f"{name}_dark"] = light, dark
    return base.set(
        block_border_width="0px", block_border_width_dark="0px", block_padding="0px", block_shadow="none",
        block_label_background_fill="transparent", block_title_text_weight="600", input_shadow="none",
        input_shadow_focus="none", button_primary_shadow="none", form_gap_width="0px", panel_border_width="0px",
        button_large_text_weight="600", **values,
    )  # fmt: skip
