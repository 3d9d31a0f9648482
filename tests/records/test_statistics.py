"""Statistics against a second implementation: plain loops, and scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from records import statistics

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(VALUES)
def test_interquartile_mean(values):
    ordered, cut = sorted(values), len(values) // 4
    kept = ordered[cut : len(values) - cut]
    assert statistics.iqm(values) == pytest.approx(sum(kept) / len(kept))
    assert statistics.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_interquartile_means_along_an_axis_are_scipys():
    values = np.random.default_rng(0).random((7, 4, 9))
    for axis in range(3):
        assert np.allclose(statistics.iqm(values, axis), scipy.stats.trim_mean(values, 0.25, axis=axis))


@given(VALUES)
def test_quartiles(values):
    ordered = sorted(values)
    for share, got in zip((0.25, 0.5, 0.75), statistics.quartiles(values), strict=True):
        place = share * (len(values) - 1)
        below, rest = int(place), place - int(place)
        above = ordered[min(below + 1, len(values) - 1)]
        assert got == pytest.approx(ordered[below] + rest * (above - ordered[below]))


def test_stratified_bootstrap_interval():
    rng = np.random.default_rng(1)
    strata = [rng.random(5), rng.random(8) + 1, rng.random(3) - 1]
    means = []
    for _ in range(4000):
        drawn = sorted(rng.choice(values) for values in strata for _ in values)
        means.append(np.mean(drawn[4:12]))  # of sixteen values, without four at each end
    low, high = statistics.interval(strata)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.05)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.05)


def test_bootstrap_interval_is_scipys_but_for_the_draws():
    strata = [np.random.default_rng(i).random((6 + i, 5)) for i in range(3)]

    def iqm_of_all(*samples, axis):
        return scipy.stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    expected = scipy.stats.bootstrap(
        strata, iqm_of_all, n_resamples=9999, method="percentile", vectorized=True, rng=0
    ).confidence_interval
    low, high = statistics.interval(strata)
    assert np.allclose(low, expected.low, atol=0.02)
    assert np.allclose(high, expected.high, atol=0.02)


def test_the_interval_of_one_sample_covers_its_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = statistics.interval([rng.normal(size=30)], lambda values, axis: values.mean(axis))
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def test_one_run_has_no_interval():
    assert np.isnan(statistics.interval([np.array([0.5])])).all()
    assert np.isnan(statistics.interval([np.array([0.5]), np.array([0.1, 0.2])])).all()


@given(st.lists(VALUES, min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=3))
def test_probability_of_improvement(one, other):
    n = min(len(one), len(other))
    a, b = ([np.array(values) for values in strata[:n]] for strata in (one, other))
    by_map = [
        np.mean([(x > y) + 0.5 * (x == y) for x, y in itertools.product(xs, ys)])
        for xs, ys in zip(a, b, strict=True)
    ]
    chance = statistics.improvement([values[:1] for values in a], [values[:1] for values in b])[0]
    first = [(x[0] > y[0]) + 0.5 * (x[0] == y[0]) for x, y in zip(a, b, strict=True)]
    assert chance == pytest.approx(np.mean(first))
    full = [
        statistics.improvement([x], [np.append(y, y)])[0] for x, y in zip(a, b, strict=True) if len(x) == 1
    ]
    expected = [mean for mean, x in zip(by_map, a, strict=True) if len(x) == 1]
    assert full == pytest.approx(expected)


def test_improvement_with_its_interval():
    better, worse = [np.array([0.9, 0.8, 0.7])], [np.array([0.1, 0.2, 0.75])]
    chance, low, high = statistics.improvement(better, worse)
    assert chance == pytest.approx(8 / 9)
    assert low < chance < high <= 1


def test_performance_profile():
    strata = [np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.7])]
    share, low, high = statistics.profile(strata, np.array([0.0, 0.4, 1.0]))
    np.testing.assert_allclose(share, [1, (2 / 3 + 1 / 2) / 2, 0])
    assert (low <= share).all()
    assert (share <= high).all()


def _frame(*curves):
    rows = [
        {"run": str(i), "t_env": step, "value": value}
        for i, curve in enumerate(curves)
        for step, value in curve
    ]
    return pd.DataFrame(rows)


def test_curves_of_different_lengths_share_a_grid():
    grid, values = statistics.align(_frame([(0, 0.0), (100, 1.0)], [(0, 0.0), (50, 1.0), (200, 1.0)]))
    np.testing.assert_array_equal(grid, [0, 50, 100, 200])
    np.testing.assert_array_equal(values, [[0, 0.5, 1, np.nan], [0, 1, 1, 1]])
    _, held = statistics.align(_frame([(0, 0.0), (100, 1.0)], [(0, 0.0), (140, 1.0)], [(0, 0.0), (151, 1.0)]))
    np.testing.assert_array_equal(np.isnan(held[:, -1]), [True, False, False])
    assert held[0, 2] == 1
    centre, low, high = statistics.band(values, "iqm")
    np.testing.assert_allclose(centre, [0, 0.75, 1, 1])
    assert (low[1], high[1]) == (0.5, 1.0)
    assert np.isnan([low[3], high[3]]).all()
    centre, low, high = statistics.band(values, "median")
    np.testing.assert_allclose([low[1], centre[1], high[1]], [0.625, 0.75, 0.875])


def test_long_curves_are_drawn_on_a_coarser_grid():
    grid, values = statistics.align(_frame([(t, t / 1000) for t in range(1000)]))
    assert values.shape == (1, 200)
    np.testing.assert_allclose(values[0], grid / 1000)


def test_area():
    assert statistics.area([0, 10, 20], [0, 1, 1], 20) == pytest.approx(0.75)
    assert statistics.area([0, 10, 20], [0, 1, 1], 30) == pytest.approx(0.75)
    assert statistics.area([0, 10, 20], [0, 1, 0], 15) == pytest.approx((5 + 3.75) / 15)
    assert statistics.area([5], [0.4], 5) == 0.4
