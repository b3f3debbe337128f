"""Bootstrap intervals: known answers, whole groups, the same every time."""

import pytest

from squeeze.evaluation.intervals import interval, mean_interval


def test_equal_values_leave_no_doubt():
    assert interval([0.25] * 10) == [0.25, 0.25]


def test_a_fair_coin_of_400_throws():
    low, high = interval([True, False] * 200)
    assert low == pytest.approx(0.451, abs=0.01), "1.96 standard errors of .025 below a half"
    assert high == pytest.approx(0.549, abs=0.01)


def test_groups_are_drawn_whole():
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert interval(values, groups) == [0.0, 1.0], "two subjects that differ say next to nothing about a third"
    alone = interval(values)
    assert alone[0] > 0.35, "without groups a hundred values are a hundred draws"


def test_larger_groups_weigh_more():
    low, high = interval([0.0] + [1.0] * 9, ["a"] + ["b"] * 9)
    assert (low, high) == (0.0, 1.0)
    low, high = interval([0.5, 0.5, 0.5, 0.7], ["a", "b", "c", "c"])
    assert low == 0.5
    assert high == 0.6, "drawn three times, c gives the mean of its own two values"


@pytest.mark.parametrize("values", [[], [1.0]])
def test_less_than_two_groups_have_none(values: list[float]):
    assert interval(values) is None
    assert interval(values * 5, ["one"] * 5 * len(values)) is None


def test_the_same_every_time():
    values = [0.1 * (i % 7) for i in range(30)]
    assert interval(values) == interval(values)


def test_a_mean_of_one_rate_is_that_rate():
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean_interval([[value] for value in values]) == interval(values)


def test_rates_weigh_the_same_however_many_cases_they_judge():
    rows = [[1.0, None]] * 30 + [[1.0, 0.0]] * 30
    assert mean_interval(rows) == [0.5, 0.5], "one rate is always right and one never"


def test_groups_of_several_rates_are_drawn_whole():
    rows, groups = [[0.0, None]] * 50 + [[1.0, 1.0]] * 50, ["a"] * 50 + ["b"] * 50
    assert mean_interval(rows, groups) == [0.0, 1.0]
    assert mean_interval(rows, ["one"] * 100) is None


def test_what_no_case_judges_is_left_out():
    assert mean_interval([[True, None], [True, None]]) == [1.0, 1.0]
    assert mean_interval([[None, None], [None, None]]) is None
    assert mean_interval([]) is None
