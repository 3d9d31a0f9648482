import logging

import pytest

from utils import progress
from utils.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_line_says_steps_speed_time_left_and_last_result(clock, caplog):
    bar = Progress(10_000, logging.getLogger("test"))
    clock[0] = 10
    bar.update(2000)
    assert bar.text() == "2,000 of 10,000 steps | 200 steps/s | 0:00:40 left"
    bar.tested("win rate", 0.625)
    with caplog.at_level(logging.INFO):
        bar.log()
    assert caplog.messages == ["2,000 of 10,000 steps | 200 steps/s | 0:00:40 left | test win rate 0.625"]


def test_speed_is_that_of_the_last_minute(clock):
    bar = Progress(100_000, logging.getLogger("test"))
    for second in range(1, 301):
        clock[0] = second
        bar.update(10 * min(second, 200) + 100 * max(0, second - 200))
    assert "| 100 steps/s |" in bar.text()


def test_nothing_is_promised_before_the_first_step(clock):
    assert Progress(100, logging.getLogger("test")).text() == "0 of 100 steps | 0 steps/s | ? left"


def test_terminal_gets_a_live_bar_and_no_lines(clock, monkeypatch, capfd, caplog):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(100, logging.getLogger("test")) as bar, caplog.at_level(logging.INFO):
        clock[0] = 1
        bar.update(50)
        bar.log()
    assert "50 of 100 steps" in capfd.readouterr().err
    assert caplog.messages == []
