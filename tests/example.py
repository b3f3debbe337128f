"""A recipe with every field, none of them as plain as could be."""

from squeeze.recipe import VERSION

RECIPE = {
    "version": VERSION,
    "profile": "plush",
    "revision": "c30424b81554",
    "prompt": 'on the beach 🏖️ "quoted" \\ <b>玩具</b>',
    "references": ["0123456789abcdef"],
    "balance": [0.0, 0.5, 1.0],
    "stage_steps": [4, 5, 16],
    "steps": 25,
    "cfg": 2.5,
    "guidance": 1.0,
    "seed": 2**53 - 1,
    "height": 64,
    "width": 64,
    "uncond": "lean",
    "late_text": "drop",
    "earlier": [[9, 0.0, 0.0, 0.5], [12, 1, 0.5, 0.1]],
    "software": {"torch": "2.13.0+cpu"},
    "picture": "fedcba9876543210",
}
