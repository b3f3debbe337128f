"""A page without browser and network: what stands for its parts, two visitors, and what they see of a run."""

from squeeze.ui import recipes
from squeeze.ui.show import Parts, Visitor

ANN, BOB = (Visitor(session=name, page="http://here/") for name in ("ann", "bob"))
FORMS = dict.fromkeys(recipes.FORMS)
PARTS = Parts(
    **{name: name for name in Parts.__annotations__ if name not in ("form", "sliders", "forms")},
    form={
        name: name for name in ("prompt", "steps", "cfg", "seed", "random", "eta", "uncond", "late_text", "timeline")
    },
    sliders=["first", "second", "third"],
    forms={name: f"form {name}" for name in FORMS},
)
BALANCE = (0.0, 0.5, 1.0)


def whole(changes):
    """All changes of a run, the last of each part and of each of its properties."""
    shown = {}
    for change in changes:
        shown |= {part: shown.get(part, {}) | new if part == "timeline" else new for part, new in change.items()}
    return shown


def run(handlers, form, visitor=ANN):
    """A run to its finished picture, and what it showed."""
    shown = whole(handlers.run(PARTS, form, visitor))
    assert 'data-state="done"' in shown["status"], shown["status"]
    return shown
