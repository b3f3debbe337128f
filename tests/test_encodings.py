"""The cache of encodings: by content, bounded, and without a difference to what is computed afresh."""

import threading

import pytest
import torch

from squeeze.encodings import Encodings
from squeeze.models.dit import Identity


def identity(tokens=1):
    return Identity(ref=torch.zeros(1, tokens, 16), ref_ids=torch.zeros(tokens, 3))  # 76 bytes a token


def test_a_key_is_computed_once_and_another_by_itself():
    kept, made = Encodings(), []

    def make():
        made.append(identity())
        return made[-1]

    first, again, other = kept.get("a", make), kept.get("a", make), kept.get("b", make)
    assert first is again is made[0]
    assert other is made[1]
    assert len(made) == len(kept) == 2
    assert kept.bytes == 152


def test_the_bound_holds_and_the_longest_unused_goes_first():
    kept = Encodings(limit=3 * 76)
    for key in "abc":
        kept.get(key, identity)
    kept.get("a", lambda: pytest.fail("a is there"))
    kept.get("d", identity)
    assert kept.bytes == 3 * 76
    kept.get("a", lambda: pytest.fail("a was used last but one"))
    made = []
    kept.get("b", lambda: made.append(1) or identity())
    assert made, "b was used longest ago and is still there"
    assert len(kept) == 3
    kept.get("wide", lambda: identity(2))
    assert kept.bytes <= 3 * 76
    assert len(kept) == 2


def test_what_is_larger_than_the_bound_is_given_and_not_kept():
    kept = Encodings(limit=100)
    kept.get("a", identity)
    assert kept.get("large", lambda: identity(2)).ref.shape[1] == 2
    assert (len(kept), kept.bytes) == (1, 76), "something small had to go for what could not stay anyway"


def test_an_error_keeps_nothing():
    kept = Encodings()
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)
    assert len(kept) == 0
    kept.get("a", identity)


def test_many_visitors_at_once_stay_within_the_bound():
    kept = Encodings(limit=5 * 76)
    wrong = []

    def visit(number):
        for turn in range(300):
            key = (number * 7 + turn) % 11
            value = kept.get(
                key, lambda key=key: Identity(ref=torch.full((1, 1, 16), float(key)), ref_ids=torch.zeros(1, 3))
            )
            if value.ref[0, 0, 0] != key or kept.bytes > 5 * 76:
                wrong.append((key, kept.bytes))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept.bytes == 76 * len(kept) == 5 * 76
