"""Which run a command goes on with: told from journals, without anything being started."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

import resume
from records.journal import Journal, lock
from utils.config import compose, parse_command_line, run_folder
from utils.constraints import ConfigError

SOURCE = Path(__file__).parents[1] / "src"
HOLD = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
import pathlib
from records.journal import lock
print(lock(pathlib.Path(sys.argv[1])), flush=True)
input()
"""


@pytest.fixture
def config(tmp_path):
    request = parse_command_line(["--config=qmix", "--env-config=smax", "with", "seed=3", "t_max=1000"])
    return compose(request) | {"local_results_path": str(tmp_path), "resume": True}


@pytest.fixture
def make_run(config):
    """make_run(number, status=None, **changes) -> directory of a run whose configuration has the changes."""

    def make(number, status=None, steps=1000, **changes):
        directory = run_folder(config) / str(number)
        directory.mkdir(parents=True)
        started = copy.deepcopy(config) | {"resume": None} | changes
        journal = Journal.create(directory, id=str(number), name="qmix", config=started)
        if status is not None:
            journal.ended(status, {"t_env": steps})
        journal.close()
        return directory

    return make


def test_the_newest_unfinished_run_of_the_same_configuration_goes_on(config, make_run):
    make_run(2)
    wanted = make_run(10, "FAILED")
    make_run(11, "COMPLETED")
    make_run(12, lr=0.1)
    (run_folder(config) / "13").mkdir()  # killed before it began
    assert resume.choose(config) == wanted


def test_without_a_seed_any_seed_is_the_same_configuration(config, make_run):
    wanted = make_run(1, "INTERRUPTED", seed=77)
    assert resume.choose(config | {"seed": None}) == wanted
    with pytest.raises(ConfigError, match=r"seed \(77 then, 3 now\)"):
        resume.choose(config)


def test_what_may_change_may_change(config, make_run):
    wanted = make_run(1)
    changes = {"t_max": 5000, "log_interval": 7, "checkpoint_keep": 5, "label": "x"}
    assert resume.choose(config | changes) == wanted


def test_another_configuration_is_refused_with_the_keys_that_differ(config, make_run):
    other = copy.deepcopy(config)
    other["env_args"]["map_name"] = "8m"
    directory = make_run(1, gamma=0.5, env_args=other["env_args"])
    with pytest.raises(ConfigError) as caught:
        resume.choose(config | {"resume": str(directory)})
    assert str(caught.value) == (
        f"{directory} was started with another configuration, which differs in "
        "env_args.map_name ('8m' then, '3m' now), gamma (0.5 then, 0.99 now)."
    )


def test_a_finished_run_says_so_unless_more_steps_are_asked_for(config, make_run):
    directory = make_run(1, "COMPLETED", steps=1003)
    for wanted in (True, str(directory)):
        with pytest.raises(ConfigError, match="is finished: it took 1003 steps. Raise t_max"):
            resume.choose(config | {"resume": wanted})
    assert resume.choose(config | {"t_max": 2000}) == directory


def test_what_is_said_is_of_a_run_of_this_configuration_if_there_is_one(config, make_run):
    make_run(1, "COMPLETED", steps=1003)
    make_run(2, lr=0.1)
    with pytest.raises(ConfigError, match="3m/1 is finished"):
        resume.choose(config)


def test_a_living_run_is_left_alone(config, make_run):
    old, living = make_run(1), make_run(2)
    command = [sys.executable, "-c", HOLD, str(living)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    with pytest.raises(ConfigError, match="2 is still running"):
        resume.choose(config | {"resume": str(living)})
    assert resume.choose(config) == old
    holder.kill()
    holder.communicate()
    assert lock(living)


def test_nothing_to_go_on_with_is_one_sentence(config, tmp_path):
    with pytest.raises(ConfigError, match="There is no unfinished run of this configuration in .*qmix/3m"):
        resume.choose(config)
    with pytest.raises(ConfigError, match="There is no run in .*name a run directory"):
        resume.choose(config | {"resume": str(tmp_path)})
