"""How the embedded world is spoken of: prompts that ask for a scene, questions about a picture or a request.

A `Wish` is what a prompt means: indices into the world's tables, None where it names nothing. Some wishes need the
picture to be understood ("a hat of its own colour"); their meaning is already resolved in the indices, and
`needs_picture` says which words hide it. Texts are lower case, words and punctuation apart; a word-level tokenizer
reads them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import torch

from .world import (
    COLOUR_NAMES,
    EARS,
    FACINGS,
    HATS,
    PATTERNS,
    PLACES,
    SIZES,
    TAILS,
    Scenes,
    Toys,
    facing_of,
    prompt_held_out,
)

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "on the sand by the sea", "on a sunny beach"),
    "snow": ("in the snow", "in a snowy landscape", "on a snowy field", "in winter"),
    "forest": ("in the forest", "in the woods", "among the trees", "in a dark forest"),
    "desert": ("in the desert", "on a sand dune", "among the dunes", "in a hot desert"),
    "city": ("in the city at night", "in a night city", "on a city street at night", "in town at night"),
    "meadow": ("in the meadow", "on the grass", "in a field of flowers", "on a green meadow"),
    "room": ("in a room", "at home", "indoors", "in the living room"),
    "sea": ("on the sea", "on the water", "in the ocean", "at sea"),
}
FACING_PHRASES: dict[str, tuple[str, ...]] = {
    "front": ("facing the viewer", "seen from the front", "looking at the camera", "facing forward"),
    "front right": ("facing front right", "turned front and right", "looking to the front right"),
    "right": ("facing right", "looking right", "turned to the right", "facing to the right"),
    "back right": ("facing back right", "turned back and right", "looking to the back right"),
    "back": ("facing away", "seen from behind", "seen from the back", "looking away"),
    "back left": ("facing back left", "turned back and left", "looking to the back left"),
    "left": ("facing left", "looking left", "turned to the left", "facing to the left"),
    "front left": ("facing front left", "turned front and left", "looking to the front left"),
}
SIZE_PHRASES: dict[str, tuple[str, ...]] = {
    "near": ("close up", "up close", "near the camera", "very near"),
    "far": ("far away", "in the distance", "a long way off", "far off"),
}
HAT_PHRASES = ("with a {} hat", "wearing a {} hat", "in a {} hat", "and a {} hat")
BARE_PHRASES = ("without a hat", "with no hat", "wearing no hat", "bareheaded")
SAME_PLACE = ("in the same place", "at the same place as before")
OTHER_WAY = ("facing the other way", "turned around", "looking the other way")
OWN_HAT = ("with a hat of its own colour", "wearing a hat the colour of its body", "with a hat that matches its body")
BELLY_HAT = ("with a hat the colour of its belly", "wearing a hat that matches its belly")
SUBJECTS = ("the toy", "this toy", "it", "the plush toy", "a toy", "my toy", "the same toy")
OPENINGS = ("", "", "", "a picture of ", "a photo of ", "show ", "put ")
SPELLINGS = {"color": "colour", "colored": "coloured"}
UNKNOWN = "[UNK]"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one prompt asks for, as indices into the world's tables; None = not named. `text` is the prompt."""

    text: str
    place: int | None
    facing: int | None
    hat: int | None
    size: int | None
    needs_picture: frozenset[str] = field(default_factory=frozenset)


def words(text: str) -> list[str]:
    """The words and punctuation marks of a lower-case text."""
    return re.findall(r"\w+|[^\w\s]", text)


def vocabulary() -> list[str]:
    """Every word the embedded model can know, in a fixed order."""
    texts = [*SUBJECTS, *OPENINGS, *BARE_PHRASES, *HAT_PHRASES, *SAME_PLACE, *OTHER_WAY, *OWN_HAT, *BELLY_HAT]
    for table in (PLACE_PHRASES, FACING_PHRASES, SIZE_PHRASES):
        texts += [phrase for phrases in table.values() for phrase in phrases]
    texts += [*COLOUR_NAMES, *PATTERNS, *EARS, *TAILS, *FACINGS, *SIZES, *HATS, *PLACES, ", . ? ! :"]
    texts += [text for question in (*PICTURE_QUESTIONS, *REQUEST_QUESTIONS) for text in QUESTIONS[question]]
    texts += ["a toy with and pattern belly ears tail any"]
    known: dict[str, None] = {}
    for text in texts:
        for word in words(text.replace("{}", " ")):
            known.setdefault(word)
    return list(known)


# --- questions ------------------------------------------------------------------------------------------------------

QUESTIONS: dict[str, tuple[str, ...]] = {
    "place": ("where is it ?", "which place ?"),
    "facing": ("which way is it facing ?", "which way ?"),
    "hat": ("which hat ?", "what hat is it wearing ?"),
    # no picture shows it once it is framed; the shipped MLLM's token numbers are by the order of these words
    "size": ("how near is it ?", "near or far ?"),
    "body": ("what colour is its body ?", "body colour ?"),
    "belly": ("what colour is its belly ?", "belly colour ?"),
    "pattern": ("which pattern ?", "what pattern is on its body ?"),
    "ears": ("which ears ?", "what are its ears like ?"),
    "tail": ("which tail ?", "what is its tail like ?"),
    "then place": ("then where ?", "where will it be ?"),
    "then facing": ("then which way ?", "which way will it face ?"),
    "then hat": ("then which hat ?", "which hat will it have ?"),
    "then size": ("then how near ?", "how near will it be ?"),
}
PICTURE_QUESTIONS = ("place", "facing", "hat", "size", "body", "belly", "pattern", "ears", "tail")
REQUEST_QUESTIONS = ("then place", "then facing", "then hat", "then size")
ANSWERS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "facing": FACINGS,
    "hat": HATS,
    "size": SIZES,
    "body": COLOUR_NAMES,
    "belly": COLOUR_NAMES,
    "pattern": PATTERNS,
    "ears": EARS,
    "tail": TAILS,
}
ANY = "any"  # the answer when a request leaves something open


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its answer, both as text; `about` names the attribute, "then ..." asks about the request."""

    about: str
    text: str
    answer: str


def ask_picture(truth: dict[str, int], rng: random.Random) -> list[Question]:
    """Questions about what a picture shows, one for each visible attribute in `truth`, shuffled."""
    asked = [
        Question(about=about, text=rng.choice(QUESTIONS[about]), answer=ANSWERS[about][value])
        for about, value in truth.items()
    ]
    rng.shuffle(asked)
    return asked


def ask_request(wish: Wish, rng: random.Random) -> list[Question]:
    """Questions about what a prompt asks for, given the picture it was put with, shuffled."""
    asked = []
    for about in REQUEST_QUESTIONS:
        key = about.removeprefix("then ")
        value = getattr(wish, key)
        answer = ANY if value is None else ANSWERS[key][value]
        asked.append(Question(about=about, text=rng.choice(QUESTIONS[about]), answer=answer))
    rng.shuffle(asked)
    return asked


# --- prompts --------------------------------------------------------------------------------------------------------


def say(
    rng: random.Random,
    *,
    place: int | None,
    facing: int | None,
    hat: int | None,
    size: int | None,
    needs_picture: frozenset[str] = frozenset(),
    body: int | None = None,
    belly: int | None = None,
) -> str:
    """Puts a wish into words, in one of many orders; `body` and `belly` are the toy's colours, for hats that match."""
    phrases = []
    if place is not None:
        phrases.append(rng.choice(SAME_PLACE if "place" in needs_picture else PLACE_PHRASES[PLACES[place]]))
    if facing is not None:
        phrases.append(rng.choice(OTHER_WAY if "facing" in needs_picture else FACING_PHRASES[FACINGS[facing]]))
    if size is not None:
        phrases.append(rng.choice(SIZE_PHRASES[SIZES[size]]))
    if hat == 0:
        phrases.append(rng.choice(BARE_PHRASES))
    elif hat is not None and "hat" in needs_picture:
        phrases.append(rng.choice(OWN_HAT if hat - 1 == body else BELLY_HAT if hat - 1 == belly else HAT_PHRASES))
    elif hat is not None:
        phrases.append(rng.choice(HAT_PHRASES).format(HATS[hat]))
    rng.shuffle(phrases)
    subject = rng.choice(OPENINGS) + rng.choice(SUBJECTS) if rng.random() < 0.7 or not phrases else ""
    joint = rng.choice((", ", " "))
    text = joint.join(phrases)
    return f"{subject} {text}".strip() if subject else text


def wishes(toys: Toys, references: Scenes, targets: Scenes, rng: random.Random, held_out: bool = False) -> list[Wish]:
    """One wish for each target scene, given the toy and the scene of its reference picture.

    Each part is named with probability 0.8 (place), 0.75 (facing), 0.7 (hat) and 0.4 (size); half of the wishes that
    allow it, one in seven of all, are put so that only the picture tells what they mean. What is named never forms a
    held-out combination (or always does, with `held_out`, where the target's own scene is held out and every part of it
    is then named).
    """
    out = []
    rows = zip(
        toys.body.tolist(), toys.belly.tolist(), references.place.tolist(), facing_of(references.azimuth).tolist(),
        targets.place.tolist(), targets.facing.tolist(), targets.hat.tolist(), targets.size.tolist(), strict=True,
    )  # fmt: skip
    for body, belly, ref_place, ref_facing, place, facing, hat, size in rows:
        while True:
            named = {
                "place": place if held_out or rng.random() < 0.8 else None,
                "facing": facing if held_out or rng.random() < 0.75 else None,
                "hat": hat if held_out or rng.random() < 0.7 else None,
            }
            triple = [torch.tensor([-1 if v is None else v]) for v in named.values()]
            if held_out or not prompt_held_out(*triple).item():
                break
        wish_size = size if rng.random() < 0.4 else None
        hidden = set()
        if rng.random() < 0.5:
            if named["hat"] in (body + 1, belly + 1):
                hidden.add("hat")
            if named["facing"] is not None and (named["facing"] - ref_facing) % 8 == 4:
                hidden.add("facing")
            if named["place"] is not None and named["place"] == ref_place:
                hidden.add("place")
        needs = frozenset(hidden)
        text = say(rng, **named, size=wish_size, needs_picture=needs, body=body, belly=belly)
        out.append(Wish(text=text, **named, size=wish_size, needs_picture=needs))
    return out


def describe(truth: dict[str, int], rng: random.Random) -> str:
    """A caption of a picture from its visible attributes; `truth` maps names to indices and has at least place and
    facing."""
    body = COLOUR_NAMES[truth["body"]] if "body" in truth else ""
    traits = []
    if "belly" in truth:
        traits.append(f"a {COLOUR_NAMES[truth['belly']]} belly")
    if "pattern" in truth:
        traits.append(f"a {PATTERNS[truth['pattern']]} pattern")
    for name, table in (("ears", EARS), ("tail", TAILS)):
        if name in truth:
            traits.append(f"{table[truth[name]]} {name}")
    rng.shuffle(traits)
    scene = say(
        random.Random(rng.random()),
        **{name: truth.get(name) for name in ("place", "facing", "hat", "size")},
    )
    listed = f" with {' , '.join(traits)}" if traits else ""
    return f"a {body} toy{listed} . {scene}".replace("  ", " ")
