"""Imports point down, and each library stays where it belongs."""

import ast
from pathlib import Path

import pytest

from squeeze.models.profiles import PROFILES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [ROOT / "app.py", *sorted((ROOT / "squeeze").rglob("*.py"))]
}
LAYERS = [  # from the top; a module may import from its own row and from rows below
    (
        "app",
        "squeeze.cli",
        "squeeze.cli_evaluate",
        "squeeze.cli_bench",
        "squeeze.cli_models",
        "squeeze.cli_checks",
        "squeeze.__main__",
    ),
    ("squeeze.ui", "squeeze.training", "squeeze.evaluation", "squeeze.plush", "squeeze.bench"),
    ("squeeze.pipeline", "squeeze.warmup"),
    ("squeeze.conditioning", "squeeze.identity", "squeeze.checks", "squeeze.previews"),
    ("squeeze.models", "squeeze.sampling", "squeeze.images", "squeeze.encodings"),
    ("squeeze.recipe", "squeeze.recipe_forms", "squeeze.request", "squeeze.events", "squeeze.balance", "squeeze.files"),
]
BESIDE = {  # rows that stand side by side: who may use whom
    "squeeze.ui": set(),
    "squeeze.plush": set(),
    "squeeze.bench": set(),
    "squeeze.training": {"squeeze.plush"},
    "squeeze.evaluation": {"squeeze.plush", "squeeze.training"},
}
HOMES = {
    "gradio": ("app", "squeeze.ui"),
    "transformers": ("squeeze.models", "squeeze.training", "squeeze.evaluation", "squeeze.bench"),
    "bitsandbytes": ("squeeze.models", "squeeze.training", "squeeze.evaluation", "squeeze.bench"),
    "peft": ("squeeze.models", "squeeze.training", "squeeze.evaluation", "squeeze.bench"),
    "diffusers": ("squeeze.models", "squeeze.training", "squeeze.evaluation", "squeeze.plush.probe", "squeeze.bench"),
}
TORCHLESS = LAYERS[-1]


def within(module, place):
    return module == place or module.startswith(place + ".")


def imported(module, typing_too=True):
    """Absolute names of what a module imports, wherever in the file."""
    tree = ast.parse(SOURCES[module].read_text())
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
            hidden |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in SOURCES or f"{whole}.__init__" in SOURCES else base


def row(module):
    rows = [i for i, places in enumerate(LAYERS) if any(within(module, place) for place in places)]
    return rows[0] if rows else None


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_down(module):
    if module == "squeeze.__init__":
        return
    assert row(module) is not None, f"{module} has no place in the layers"
    mine = next((place for place in BESIDE if within(module, place)), None)
    for name in imported(module):
        if not within(name, "squeeze") or row(name) is None:
            continue
        assert row(name) >= row(module), f"{module} imports {name}, which stands above it"
        theirs = next((place for place in BESIDE if within(name, place)), None)
        if mine and theirs and mine != theirs:
            assert theirs in BESIDE[mine], f"{module} imports {name}, which stands beside it"


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_libraries_stay_at_home(module):
    for name in imported(module):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or any(within(module, home) for home in homes), f"{module} imports {name}"


@pytest.mark.parametrize("module", TORCHLESS)
def test_the_lowest_layer_needs_no_torch(module):
    heavy = {"torch", "diffusers", "transformers"}
    assert not {name.split(".")[0] for name in imported(module, typing_too=False)} & heavy


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_branch_asks_which_profile_it_is(module):
    """What differs between profiles is a field of the row, or a class that the row names."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Compare | ast.match_case):
            constants = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            asks = "profile" in ast.unparse(node) and constants & PROFILES.keys()
            assert not asks, f"{module} asks for a profile by name: {ast.unparse(node)}"


def test_the_reader_of_imports_sees_them():
    assert {"squeeze.models.dit", "squeeze.balance", "torch"} <= set(imported("squeeze.pipeline"))
    assert "squeeze.ui.page" in set(imported("app"))
