"""A recipe with every field, none of them as plain as could be, and requests at random."""

import random

from squeeze.models.profiles import PROFILES
from squeeze.pipeline import default_request
from squeeze.recipe import VERSION
from squeeze.request import MAX_SEED

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
    "eta": 0.25,
    "uncond": "lean",
    "late_text": "drop",
    "earlier": [[9, 0.0, 0.0, 0.5], [12, 1, 0.5, 0.1]],
    "software": {"torch": "2.13.0+cpu"},
    "picture": "fedcba9876543210",
}

NASTY = [
    "it's", '"quoted"', "\\", "$(rm -rf /)", "`id`", "${HOME}", "!!", "#", "-rf", "--seed", "~", "*", "{a,b}", "%41",
    "%", "&seed=1", "a+b", "=", "?", ";", "|", ">", "<script>alert(1)</script>", "玩具", "🏖️", "👩\u200d👧", "é", "ﷺ",
    "\u2028", "\u202e", "'''", "{prompt!r}", "{}", "%s", ",", ":", "NaN", "null", "1e5", "\\n", "\\u0041", "\U000e0067",
    "on the beach",
]  # fmt: skip
NUMBERS = [0, 1, 0.0, 1.0, 0.5, 0.1 + 0.2, 1e-7, 5e-324, 1 / 3, -0.0]


def random_request(seed, reference, most_steps=100, most_words=600):
    """A request with whatever a visitor could ask for; one of ten prompts has `most_words`, the plush model reads some
    200 of such."""
    rng = random.Random(seed)
    steps = rng.randint(1, most_steps)
    first = rng.randint(0, steps)
    second = rng.randint(0, steps - first)
    branches = sorted(rng.sample(range(1, steps), min(steps - 1, rng.choice([0, 0, 1, 3]))))
    words = rng.choices(NASTY, k=rng.randint(1, 12) if seed % 10 else most_words)
    return default_request(
        PROFILES["plush"],
        prompt=(rng.choice(["", " ", "-"]) + rng.choice(["", " "]).join([*words, "x"]))[:2000],
        references=(reference,),
        balance=tuple(rng.choice([*NUMBERS, rng.random()]) for _ in range(3)),
        steps=steps,
        stage_steps=rng.choice([None, (first, second, steps - first - second)]),
        cfg=rng.choice([1, 1.0, 2.5, 10, 1 + 9 * rng.random()]),
        guidance=rng.choice([0, 0.0, 1e-7, 10 * rng.random()]),
        seed=rng.choice([0, MAX_SEED, rng.randint(0, MAX_SEED)]),
        eta=rng.choice([0, 1, 0.85, rng.random()]),
        uncond=rng.choice(["lean", "full"]),
        late_text=rng.choice(["drop", "keep"]),
        earlier=tuple((step, *(rng.choice([*NUMBERS, rng.random()]) for _ in range(3))) for step in branches),
    )
