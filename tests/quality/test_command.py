"""What the command lines about world-model quality say to bad requests."""

import logging

import pytest

from quality import command
from utils.constraints import ConfigError


def test_the_words_become_a_request(tmp_path):
    asked = command.parse([f"record_dataset={tmp_path}", "with", "episodes=8"])
    assert (asked.command, asked.directory, asked.checkpoint, asked.number) == (
        "record_dataset",
        tmp_path,
        "best",
        8,
    )
    asked = command.parse([f"evaluate_world_model={tmp_path}", "checkpoint=300"])
    assert (asked.command, asked.checkpoint, asked.number) == ("evaluate_world_model", "300", 15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["record_dataset=x", "horizon=5"], "'horizon=5' is not part of this command"),
        (["evaluate_world_model=x", "horzion=5"], "did you mean horizon"),
        (["evaluate_world_model=x", "horizon=0"], "horizon must be a whole number"),
        (["record_dataset=x", "episodes=many"], "episodes must be a whole number"),
        (["record_dataset=x", "episodes=6"], "multiple of 4"),
        (["record_dataset=x", "dataset=play"], "ends in .npz, not play"),
    ],
)
def test_bad_words_are_answered_with_a_sentence(words, message):
    assert command.is_asked_for(words)
    with pytest.raises(ConfigError, match=message):
        command.parse(words)


@pytest.mark.parametrize(
    "words", [["evaluate_world_model=/dev/null"], ["record_dataset=x", "dataset=/dev/null/x.npz"]]
)
def test_where_nothing_can_be_written_nothing_is_begun(words):
    config = {"local_results_path": "x", "name": "gawm", "env": "smax", "env_args": {"map_name": "3m"}}
    with pytest.raises(ConfigError, match="can't be written to /dev/null"):
        command.carry_out(command.parse(words), config, logging.getLogger("test"))


def test_an_ordinary_request_is_none_of_these():
    assert not command.is_asked_for(["--config=gawm", "--env-config=smax", "with", "seed=1"])


@pytest.mark.parametrize(("moved_to", "found_in"), [("there", "there"), (None, "here")])
def test_held_out_play_is_that_of_the_results_a_run_lies_in(tmp_path, moved_to, found_in):
    here = tmp_path / "here"
    config = {"local_results_path": str(here), "name": "gawm", "env": "smax", "env_args": {"map_name": "3m"}}
    run = tmp_path / moved_to / "sacred/gawm/3m/7" if moved_to else tmp_path / "alone"
    assert command.dataset_path(run, config) == tmp_path / found_in / "datasets/smax/3m.npz"
