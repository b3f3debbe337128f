"""What is remembered of visitors is theirs alone, bounded, and forgotten when they leave."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from tiny import random_picture

from squeeze.images import content_hash
from squeeze.ui.visits import REMEMBERED, RUNS, Visits

COUNTS = (2, 2, 2)


@pytest.fixture
def begin(request_for):
    def make(visits, session, seed=0, steps=6, trunk=None, step=0):
        run = visits.begin(session, request_for(references=(random_picture(seed),)), COUNTS, trunk, step)
        while len(run.latents) < steps:
            run.latents.append(torch.zeros(1, 8, 250))  # 8000 bytes
            run.frames.append(f"data:{len(run.frames)}")
        return run

    return make


def test_a_run_is_found_by_its_visitor_alone(begin):
    visits = Visits()
    run = begin(visits, "ann")
    assert visits.run("ann", run.id) is run
    assert visits.newest("ann") is run
    digest = content_hash(run.request.references[0])
    assert visits.reference("ann", digest) is run.request.references[0]
    assert visits.run("bob", run.id) is visits.newest("bob") is visits.reference("bob", digest) is None
    assert visits.thumbnails("bob") == {}
    assert visits.newest_picture("ann") is None, "the run has not finished"
    visits.finish("ann", run, random_picture(1), "digest")
    assert visits.newest_picture("ann") is run.picture
    assert visits.thumbnails("ann")["digest"].startswith("data:image/jpeg")


def test_a_picture_counts_once(begin):
    visits, picture = Visits(), random_picture(1)
    run = begin(visits, "ann")
    before = size(visits)
    visits.finish("ann", run, picture, "digest")
    assert size(visits) - before == 3 * picture.width * picture.height + len(visits.thumbnails("ann")["digest"])
    visits._visits["ann"].runs.clear()
    assert size(visits) > 3 * picture.width * picture.height, "the comparison still holds it"


def test_a_branch_starts_with_what_its_trunk_has_done(begin):
    visits = Visits()
    trunk = begin(visits, "ann")
    branch = begin(visits, "ann", trunk=trunk, step=4)
    assert branch.latents[:4] == trunk.latents[:4]
    branch.frames.append("more")
    assert len(trunk.frames) == 6, "the branch writes into its trunk"


def test_a_visitor_is_bounded_and_the_oldest_goes_first(begin):
    visits = Visits(per_visitor=120_000)
    runs = [begin(visits, "ann", seed) for seed in range(5)]
    kept = [run for run in runs if visits.run("ann", run.id)]
    assert kept == runs[-len(kept) :], "not the oldest was forgotten"
    assert 1 <= len(kept) < 5
    assert visits.newest("ann") is runs[-1], "the newest run must stay, however large"


def test_a_large_run_takes_nothing_from_the_history(request_for):
    visits = Visits(per_visitor=5_000)  # a reference takes 4,608
    pictures = [random_picture(seed) for seed in range(3)]
    for number in range(3):
        two = request_for(references=(pictures[number], pictures[number - 1]))
        run = visits.begin("ann", two, COUNTS, None, 0)
        run.latents.append(torch.zeros(1, 8, 25_000))  # 800,000 bytes
        visits.finish("ann", run, random_picture(number), f"{number}")
    assert len(visits.thumbnails("ann")) == 3
    for picture in two.references:
        assert visits.reference("ann", content_hash(picture)), "a reference of the newest run is forgotten"


def test_runs_that_end_while_they_wait_take_nothing_away(begin):
    """The page goes on showing the one before, to branch from and to compare with."""
    visits = Visits(per_visitor=10_000)
    shown = begin(visits, "ann")
    visits.finish("ann", shown, random_picture(0), "digest")
    for _ in range(2 * RUNS):
        stopped = begin(visits, "ann", steps=0)
        assert visits.run("ann", shown.id) is shown
        visits.settle("ann", stopped)
        assert visits.run("ann", stopped.id) is None
    for _ in range(2 * RUNS):
        visits.settle("ann", begin(visits, "ann", steps=1))
    assert visits.run("ann", shown.id) is None
    assert visits.newest_picture("ann") is shown.picture, "nothing to compare the next picture with"


def test_a_picture_drawn_again_is_the_newest_thumbnail(begin):
    visits = Visits()
    run = begin(visits, "ann")
    for digest in ("a", "b", "a"):
        visits.finish("ann", run, random_picture(0), digest)
    assert list(visits.thumbnails("ann")) == ["b", "a"]


def test_runs_and_thumbnails_are_bounded_by_number(begin):
    visits = Visits()
    runs = [begin(visits, "ann", steps=1) for _ in range(30)]
    for number, run in enumerate(runs):
        visits.finish("ann", run, random_picture(number), f"{number}")
    assert [run for run in runs if visits.run("ann", run.id)] == runs[-RUNS:]
    assert list(visits.thumbnails("ann")) == [f"{number}" for number in range(30 - REMEMBERED, 30)]


def test_all_together_are_bounded(begin):
    visits = Visits(in_all=150_000)
    for name in ("ann", "bob", "cid", "dan"):
        begin(visits, name)
    begin(visits, "eve")
    assert visits.newest("ann") is None, "the visitor who has been away longest goes first"
    assert visits.newest("eve") is not None


def size(visits):
    return sum(visit.size for visit in visits._visits.values())


def test_runs_that_grow_pass_the_bounds_by_one_run_at_most(request_for):
    visits, most, longest = Visits(per_visitor=60_000, in_all=150_000), 0, 90_000
    for turn in range(20):
        name = "abcd"[turn % 4]
        run = visits.begin(name, request_for(references=(random_picture(turn % 3),)), COUNTS, None, 0)
        for _ in range(11 if turn % 2 else 3):  # some are stopped early, and none of those is finished
            run.latents.append(torch.zeros(1, 8, 250))
            run.frames.append("data:")
            most = max(most, size(visits))
        if turn % 2:
            visits.finish(name, run, random_picture(turn), f"{turn}")
    assert 150_000 < most <= 150_000 + longest, f"{most} bytes were kept at once"
    visits.begin("e", request_for(), COUNTS, None, 0)
    assert size(visits) <= 150_000


def test_runs_share_their_references(request_for):
    visits = Visits()
    runs = [visits.begin("ann", request_for(references=(random_picture(0),)), COUNTS, None, 0) for _ in range(3)]
    assert len({id(run.request.references[0]) for run in runs}) == 1, "each run holds a copy that nobody counts"


def test_who_leaves_is_forgotten_even_in_the_middle_of_a_run(begin):
    visits = Visits()
    run = begin(visits, "ann")
    visits.leave("ann")
    visits.finish("ann", run, random_picture(0), "digest")
    assert visits.newest("ann") is None
    assert visits.thumbnails("ann") == {}
    visits.leave("nobody")


def test_who_was_here_lately_is_kept_for_a_while(begin, monkeypatch):
    """A connection that was lost for a moment: the page may go on."""
    now = 100.0
    monkeypatch.setattr("squeeze.ui.visits.time", SimpleNamespace(monotonic=lambda: now))
    visits = Visits()
    begin(visits, "ann")
    now = 130.0
    assert visits.leave("ann", 40) == 10
    run = begin(visits, "ann", 1)
    now = 140.0
    assert visits.leave("ann", 40) == 30
    assert visits.newest("ann") is run
    now = 170.0
    assert visits.leave("ann", 40) == 10, "who branches or looks at the history is here"
    now = 180.0
    assert visits.leave("ann", 40) == 0
    assert visits.newest("ann") is None
    assert visits.leave("nobody", 40) == 0


def test_many_threads(begin):
    visits = Visits(per_visitor=200_000, in_all=1_000_000)

    def live(name):
        for seed in range(20):
            run = begin(visits, name, seed)
            visits.finish(name, run, random_picture(seed), f"{name}{seed}")
            found = visits.newest(name)
            assert found is None or found.request.references == run.request.references
            if seed % 7 == 6:
                visits.leave(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, [f"v{n}" for n in range(16)]))
