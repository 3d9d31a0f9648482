"""Requests for evaluations, and what is made of the episodes played."""

import logging

import numpy as np
import pytest

from evaluation import Request, evaluate, parse, summarise, wilson, words
from utils.constraints import ConfigError


def test_a_request_is_read(tmp_path):
    assert parse([f"evaluate={tmp_path}"]) == Request(tmp_path, "best", 1000, None)
    given = parse([f"evaluate={tmp_path}", "with", "checkpoint=120", "episodes=8", "render=gif"])
    assert given == Request(tmp_path, "120", 8, "gif")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("episode=3", "did you mean episodes"),
        ("episodes=0", "episodes must be a whole number from 1 on"),
        ("episodes=many", "not 'many'"),
        ("episodes=²", "not '²'"),
        ("render=mp4", "render must be gif"),
        ("--config=qmix", "the form is"),
    ],
)
def test_a_bad_request_is_one_sentence(word, message):
    with pytest.raises(ConfigError, match=message):
        parse(["evaluate=x", word])


def test_where_nothing_can_be_written_nothing_is_played():
    with pytest.raises(ConfigError, match="can't be written to /dev/null/evaluations; copy the run"):
        evaluate(parse(["evaluate=/dev/null"]), {"env": "smax"}, logging.getLogger("test"))


def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for rate in (0.02, 0.5, 0.9):
        intervals = [wilson(int(wins), 100) for wins in rng.binomial(100, rate, size=2000)]
        held = np.mean([low <= rate <= high for low, high in intervals])
        assert 0.92 < held < 0.99
    assert wilson(0, 50)[0] == 0
    assert wilson(50, 50)[1] == 1


def test_a_summary_has_means_and_the_win_rate_with_its_interval():
    played = {"return": np.array([1.0, 3.0]), "ep_length": np.array([10, 20]), "battle_won": np.array([0, 1])}
    results = summarise(played)
    assert (results["episodes"], results["return_mean"], results["ep_length_std"]) == (2, 2.0, 5.0)
    assert results["win_rate"] == 0.5
    low, high = results["win_rate_interval"]
    assert 0 < low < 0.5 < high < 1
    assert "win rate 0.500" in words({**results, "step": 7})
    del played["battle_won"]
    assert "win rate" not in words({**summarise(played), "step": 7})
