"""Prompts say what the scene shows, in many ways, and nothing held out is ever said in training."""

import random

import torch

from squeeze.plush.language import (
    ANSWERS,
    ANY,
    BELLY_HAT,
    FACING_PHRASES,
    OTHER_WAY,
    OWN_HAT,
    PLACE_PHRASES,
    SAME_PLACE,
    SIZE_PHRASES,
    ask_picture,
    ask_request,
    describe,
    say,
    vocabulary,
    words,
)
from squeeze.plush.world import FACINGS, HATS, PLACES, SIZES, facing_of, prompt_held_out
from squeeze.training.data import draw_cases


def test_wishes_are_what_targets_show():
    cases = draw_cases(300, 3)
    for row, wish in enumerate(cases.wishes):
        for name in ("place", "facing", "hat", "size"):
            named = getattr(wish, name)
            assert named is None or named == int(getattr(cases.targets, name)[row]), f"{name} differs: {wish}"


def test_words_mean_what_they_say():
    for wish in draw_cases(200, 4).wishes:
        for name, table, names in (
            ("place", PLACE_PHRASES, PLACES), ("facing", FACING_PHRASES, FACINGS), ("size", SIZE_PHRASES, SIZES),
        ):  # fmt: skip
            value = getattr(wish, name)
            if value is not None and name not in wish.needs_picture:
                assert any(phrase in wish.text for phrase in table[names[value]]), f"{name} is not said: {wish}"
        if wish.hat and "hat" not in wish.needs_picture:
            assert f"{HATS[wish.hat]} hat" in wish.text, f"the hat is not said: {wish}"


def test_prompts_that_need_the_picture():
    cases = draw_cases(2000, 5)
    found = {"hat": 0, "facing": 0, "place": 0}
    for row, wish in enumerate(cases.wishes):
        for name in wish.needs_picture:
            found[name] += 1
        if "hat" in wish.needs_picture:
            colour = wish.hat - 1
            if any(phrase in wish.text for phrase in OWN_HAT):
                assert colour == int(cases.toys.body[row])
            elif any(phrase in wish.text for phrase in BELLY_HAT):
                assert colour == int(cases.toys.belly[row])
        if "facing" in wish.needs_picture:
            assert any(phrase in wish.text for phrase in OTHER_WAY)
            assert (wish.facing - int(facing_of(cases.references.azimuth)[row])) % 8 == 4
        if "place" in wish.needs_picture:
            assert any(phrase in wish.text for phrase in SAME_PLACE)
            assert wish.place == int(cases.references.place[row])
    assert all(count > 10 for count in found.values()), f"too few prompts need the picture: {found}"


def test_a_prompt_says_nothing_of_the_scene_in_the_reference():
    """Else a model could follow it by looking at the picture."""
    cases = draw_cases(4000, 12)
    for name, kinds in (("place", 8), ("facing", 8), ("size", 2)):
        drawn = getattr(cases.references, name).tolist()
        asked = [(scene, getattr(wish, name)) for scene, wish in zip(drawn, cases.wishes, strict=True)]
        same = [scene == wanted for scene, wanted in asked if wanted is not None]
        assert len(same) > 200, f"{name} is hardly ever asked for"
        off = 4 * (1 / kinds * (1 - 1 / kinds) / len(same)) ** 0.5  # four deviations of a blind guess
        assert abs(sum(same) / len(same) - 1 / kinds) < off, f"{name}: as in {sum(same)} of {len(same)} references"


def test_held_out_combinations_are_never_said():
    for wish in draw_cases(500, 6).wishes:
        triple = [torch.tensor([-1 if v is None else v]) for v in (wish.place, wish.facing, wish.hat)]
        assert not prompt_held_out(*triple).item(), f"a held-out combination is said in training: {wish}"


def test_parts_are_optional_and_orders_vary():
    texts = [wish.text for wish in draw_cases(300, 7).wishes]
    named = [(w.place is not None, w.facing is not None, w.hat is not None) for w in draw_cases(300, 7).wishes]
    assert len(set(named)) >= 6, "most combinations of named parts should occur"
    assert len(set(texts)) > 290, "prompts should hardly ever repeat"


def test_every_word_is_known():
    known = set(vocabulary())
    rng = random.Random(0)
    for wish in draw_cases(300, 8).wishes:
        spoken = [wish.text, *(f"{q.text} {q.answer}" for q in ask_request(wish, rng))]
        assert set(words(" ".join(spoken))) <= known, f"unknown words in {spoken}"
    truth = dict.fromkeys(ANSWERS, 0)
    asked = ask_picture(truth, rng)
    assert {q.about for q in asked} == set(ANSWERS)
    assert set(words(describe(truth, rng))) <= known


def test_open_parts_are_any():
    wish = draw_cases(1, 9).wishes[0]
    for question in ask_request(wish, random.Random(0)):
        value = getattr(wish, question.about.removeprefix("then "))
        assert (question.answer == ANY) == (value is None)


def test_no_hat_is_said():
    said = {say(random.Random(seed), place=None, facing=None, hat=0, size=None) for seed in range(40)}
    assert all("no hat" in text or "without a hat" in text or "bareheaded" in text for text in said), said
