import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.clocks import Every, Ratio

STEPS = st.lists(st.integers(0, 500), max_size=60)


@given(st.integers(1, 100), STEPS)
def test_ratio_keeps_its_pace_however_steps_arrive(steps_per_update, arrivals):
    clock, t, total = Ratio(steps_per_update), 0, 0
    for steps in arrivals:
        t += steps
        total += clock.due(t)
        assert total == t // steps_per_update


def test_of_what_is_due_one_by_one_the_rest_remains_due():
    clock = Ratio(10)
    updates = clock.each_due(55)
    next(updates), next(updates)
    assert clock.state_dict() == {"updates": 2}
    assert len(list(clock.each_due(55))) == 3
    assert clock.due(60) == 1


def test_ratio_below_one_step_makes_several_updates_per_step():
    assert [Ratio(0.5).due(3), Ratio(0.25).due(1)] == [6, 4]


@given(st.integers(1, 20), st.floats(0.001, 0.1), STEPS)
def test_ratio_never_makes_an_update_for_less_than_its_share_of_all_steps(steps_per_update, share, arrivals):
    clock, t, updates = Ratio(steps_per_update, share), 0, 0
    for steps in arrivals:
        pace = sum(1 / max(steps_per_update, share * (t + k + 0.5)) for k in range(steps))
        t += steps
        due = clock.due(t)
        assert due == pytest.approx(pace, abs=1.1)
        updates += due
    assert updates == pytest.approx(
        sum(1 / max(steps_per_update, share * (k + 0.5)) for k in range(t)), abs=1.1
    )


@given(st.integers(1, 100), st.integers(0, 200), STEPS)
def test_every_fires_when_a_grid_point_was_passed(interval, first, arrivals):
    clock, t, last = Every(interval, first), 0, -1
    for steps in arrivals:
        t += steps
        passed = any((p - first) % interval == 0 and p >= first for p in range(last + 1, t + 1))
        assert clock.due(t) == passed
        last = t


@pytest.mark.parametrize("make", [lambda: Ratio(7), lambda: Every(7)])
def test_clock_continues_from_its_state(make):
    whole, first = make(), make()
    expected = [whole.due(t) for t in range(0, 200, 3)]
    got = [first.due(t) for t in range(0, 99, 3)]
    second = make()
    second.load_state_dict(first.state_dict())
    got += [second.due(t) for t in range(99, 200, 3)]
    assert got == expected


@pytest.mark.parametrize("make", [Ratio, Every])
@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_is_not_positive_is_refused(make, interval):
    with pytest.raises(ValueError, match="positive"):
        make(interval)


@pytest.mark.parametrize(("new", "expected"), [(10, [32, 40, 50]), (50, [50]), (1000, [])])
def test_a_changed_interval_holds_from_where_the_state_was_taken(new, expected):
    before = Every(25, first=25)
    assert [t for t in (10, 26, 32) if before.due(t)] == [26]
    after = Every(new, first=new)
    after.load_state_dict(before.state_dict())
    assert [t for t in range(32, 60) if after.due(t)] == expected
