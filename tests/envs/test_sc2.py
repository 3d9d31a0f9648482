"""SMAC's environment behind ours, on the stand-in: the same numbers, and none of its traps."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import sc2_folders
from envs.multiagentenv import EpisodeLost, SimulatorError
from sc2_stand_in import BUILD, FAULT_VARIABLE, GAME_VERSION
from sc2_stand_in.needs import needs_smac, needs_smacv2
from utils.config import CONFIG_DIR, load

ARGS = load(CONFIG_DIR / "envs" / "sc2.yaml")["env_args"]
REWARDS = {"common_reward": True, "reward_scalarisation": "sum"}
TIMES = {"launch_timeout": 20, "step_timeout": 20}
pytestmark = needs_smac


@pytest.fixture
def make(stand_in, monkeypatch, tmp_path):
    """Makes environments on the stand-in; afterwards no game and no folder may be left."""
    monkeypatch.setenv("SC2PATH", str(stand_in))
    monkeypatch.setattr(sc2_folders.tempfile, "gettempdir", lambda: str(tmp_path))
    made = []

    def build(seed=1, fault="", **args):
        monkeypatch.setenv(FAULT_VARIABLE, fault)
        env = envs.REGISTRY["sc2"](seed=seed, **REWARDS, **{**ARGS, **TIMES, **args})
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()
    left = [path.name for path in sc2_folders.games_root().iterdir() if path.suffix != ".lock"]
    assert left == []
    assert subprocess.run(["pgrep", "-f", str(stand_in)], capture_output=True, check=False).returncode == 1


def official(map_name, seed, **args):
    from smac.env import StarCraft2Env

    names = ("launch_timeout", "step_timeout", "save_replay")
    given = {key: value for key, value in {**ARGS, **args}.items() if key not in names}
    return StarCraft2Env(**{**given, "map_name": map_name, "seed": seed})


def some_actions(env, rng):
    """Attacks where possible, which makes battles short."""
    avail = np.array(env.get_avail_actions())
    return [
        int(np.flatnonzero(row)[-1]) if rng.random() < 0.8 else int(rng.choice(np.flatnonzero(row)))
        for row in avail
    ]


def play(env, rng, steps=10_000):
    """To the end of the battle, or for some steps; returns the last step's result and the rewards."""
    rewards = []
    for _ in range(steps):
        result = env.step(some_actions(env, rng))
        rewards.append(result[1])
        if result[2] or result[3]:
            break
    return result, rewards


@pytest.mark.parametrize(
    ("map_name", "args"),
    [
        ("3m", {"obs_last_action": True, "state_last_action": True, "state_timestep_number": True}),
        ("2s3z", {"obs_pathing_grid": True, "obs_terrain_height": True}),
        ("corridor", {"reward_only_positive": False, "obs_instead_of_state": True}),
        ("1c3s5z", {"reward_scale": False, "obs_all_health": False}),
    ],
)
def test_all_numbers_are_those_of_the_package(make, map_name, args):
    ours, theirs = make(seed=7, map_name=map_name, **args), official(map_name, 7, **args)
    rng = np.random.default_rng(0)
    try:
        assert ours.get_env_info() == {key: theirs.get_env_info()[key] for key in ours.get_env_info()}
        for _ in range(2):
            ours.reset()
            theirs.reset()
            ended = False
            while not ended:
                np.testing.assert_array_equal(ours.get_obs(), np.array(theirs.get_obs(), dtype=np.float32))
                np.testing.assert_array_equal(ours.get_state(), theirs.get_state())
                np.testing.assert_array_equal(ours.get_avail_actions(), theirs.get_avail_actions())
                actions = some_actions(ours, rng)
                _, reward, terminated, truncated, info = ours.step(np.array(actions))
                their_reward, ended, their_info = theirs.step(actions)
                assert (reward, terminated or truncated) == (their_reward, ended)
                assert {key: info[key] for key in their_info} == their_info
                assert ended == ("sc2_memory_mb" in info)
        assert {key: ours.get_stats()[key] for key in theirs.get_stats()} == theirs.get_stats()
    finally:
        theirs.close()


def test_a_time_limit_is_no_end_of_the_task(make):
    env = make(map_name="2s_vs_1sc")
    env.reset()
    for _ in range(env.episode_limit):
        actions = [1 if row[1] else 0 for row in env.get_avail_actions()]
        _, _, terminated, truncated, _ = env.step(actions)
    assert (terminated, truncated) == (False, True)
    assert env.get_stats()["timeouts"] == 1
    assert env.get_stats()["win_rate"] == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("die:3:1", "Connection|Socket"),
        ("hang:3:1", "timed out"),
        ("garbage:3:1", "parsing|Decode|Wrong wire|truncated"),
    ],
)
def test_a_game_that_fails_loses_its_episode_and_another_one_takes_its_place(
    make, stand_in, fault, words, caplog
):
    for claim in stand_in.glob("*-*"):
        claim.unlink()
    env = make(fault=fault, step_timeout=2)
    env.reset()
    with pytest.raises(EpisodeLost) as caught:
        play(env, np.random.default_rng(0))
    assert caught.value.counter == "sc2_restarts"
    assert re.search(f"StarCraft II failed .*({words})", caplog.text, re.DOTALL)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step([1, 1, 1])
    env.reset()
    (_, _, terminated, _, info), rewards = play(env, np.random.default_rng(0))
    assert terminated
    assert sum(rewards) <= 20
    assert "battle_won" in info
    assert env.get_stats()["restarts"] == env.get_stats()["force_restarts"] == 1
    assert env.get_stats()["battles_game"] == 1


def test_a_game_that_fails_between_two_battles_is_replaced(make):
    env = make()
    env.reset()
    play(env, np.random.default_rng(0))
    os.kill(env._game._sc2_proc.pid, signal.SIGKILL)
    env.reset()
    assert play(env, np.random.default_rng(0))[0][2]
    assert env.get_stats()["restarts"] == 1


@pytest.mark.parametrize("fault", ["refuse", "mute"])
def test_a_game_that_does_not_start_is_one_sentence(make, fault):
    env = make(fault=fault, launch_timeout=2)
    with pytest.raises(SimulatorError, match="did not start within 2 s in 2 attempts .*check sc2"):
        env.reset()


def test_a_game_that_starts_at_the_second_attempt_is_taken(make, stand_in):
    for claim in stand_in.glob("*-*"):
        claim.unlink()
    env = make(fault="refuse:1:1")
    env.reset()
    assert env.get_obs().shape == (3, 30)


def test_resetting_twice_starts_no_second_game_and_leaves_rewards_alone(make):
    env = make(map_name="8m")
    env.reset()
    first = env._game._sc2_proc.pid
    env.reset()
    assert env._game._sc2_proc.pid == first  # nothing had happened yet
    env.step([1] * 8)
    env.reset()
    assert env._game.max_reward == 640
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_the_seed_decides_the_battles_whatever_was_played_before(make):
    env = make(seed=2**40 + 3)  # more than the game takes

    def first_battle():
        obs = [env.reset(seed=5)[0]]
        rng = np.random.default_rng(1)
        return np.array(obs + [env.step(some_actions(env, rng))[0] for _ in range(8)])

    one = first_battle()
    play(env, np.random.default_rng(2))
    env.reset()
    env.step(some_actions(env, np.random.default_rng(3)))
    np.testing.assert_array_equal(one, first_battle())
    env.seed(6)
    assert not np.array_equal(one[0], env.reset()[0])


def test_difficulty_as_a_number_and_sizes_with_the_number_of_the_step(make):
    env = make(difficulty=7, obs_timestep_number=True, obs_instead_of_state=True)
    env.reset()
    assert env.get_obs().shape == (3, env.get_obs_size())
    assert env.get_state().shape == (env.get_state_size(),)
    env.step([1, 1, 1])
    np.testing.assert_allclose(env.get_obs()[:, -1], 1 / 60)


def test_a_sparse_reward_is_one_for_a_win_and_minus_one_for_a_defeat(make):
    env = make(reward_sparse=True, difficulty="1")
    env.reset()
    (*_, info), rewards = play(env, np.random.default_rng(0))
    assert info["battle_won"]
    assert rewards[-1] == 1
    assert not any(rewards[:-1])
    env.reset()
    ended = False
    while not ended:
        _, reward, ended, _, _ = env.step([1 if row[1] else 0 for row in env.get_avail_actions()])
    assert reward == -1


def test_what_cannot_be_done_yet_or_at_all_is_said(make):
    env = make()
    assert env.get_stats()["win_rate"] == 0
    for ask in (env.get_obs, env.get_state, env.get_avail_actions, env.save_replay):
        with pytest.raises(RuntimeError, match="call reset first"):
            ask()
    with pytest.raises(NotImplementedError, match="save_replay=True"):
        env.render()
    with pytest.raises(ValueError, match="common_reward must be True"):
        envs.REGISTRY["sc2"](seed=1, **{**REWARDS, "common_reward": False}, **ARGS)


def test_replays_are_saved_on_demand_each_under_its_own_name(make, tmp_path):
    env = make(save_replay=True, replay_dir=str(tmp_path / "replays"))
    env.reset()
    env.step([1, 1, 1])
    env.close()
    (replay,) = (tmp_path / "replays").iterdir()
    assert replay.name.startswith(f"3m_{os.getpid()}_")
    assert replay.read_text().startswith("stand-in")


def test_a_game_that_is_another_one_than_its_folder_says_is_refused(make, stand_in):
    info = stand_in / ".build.info"
    said = info.read_text()
    info.write_text(said.replace(GAME_VERSION, f"4.10.0.{BUILD}"))
    try:
        env = make()
        with pytest.raises(SimulatorError, match="calls itself stand-in, but its folder says 4.10"):
            env.reset()
    finally:
        info.write_text(said)


def test_starting_games_share_no_port_and_wait_for_a_place(make):
    from contextlib import ExitStack

    from envs.sc2_games import LAUNCH_SLOTS, launch_slot

    with ExitStack() as stack:
        ports = [stack.enter_context(launch_slot()) for _ in range(LAUNCH_SLOTS)]
    assert sorted(port % LAUNCH_SLOTS for port in ports) == list(range(LAUNCH_SLOTS))


def test_a_game_ends_with_the_process_that_started_it(stand_in, tmp_path):
    code = (
        "import os, envs; from utils.config import CONFIG_DIR, load\n"
        "args = load(CONFIG_DIR / 'envs/sc2.yaml')['env_args']\n"
        f"env = envs.REGISTRY['sc2'](seed=1, **{REWARDS!r}, **args)\n"
        "env.reset(); print(env._game._sc2_proc.pid); os.kill(os.getpid(), 9)"
    )
    environ = {**os.environ, "SC2PATH": str(stand_in), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="src", env=environ, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    game = Path("/proc", done.stdout.strip(), "cmdline")
    assert not game.exists() or b"-listen" not in game.read_bytes()


@needs_smacv2
def test_smacv2_draws_its_battles_from_the_seed_and_refuses_to_share_a_process(stand_in, tmp_path):
    code = (
        "import numpy as np, envs; from utils.config import CONFIG_DIR, load\n"
        f"rewards = {REWARDS!r}\n"
        "args = load(CONFIG_DIR / 'envs/sc2v2.yaml')['env_args']\n"
        "def first(env, seed): return env.reset(seed=seed)[0]\n"
        "env = envs.REGISTRY['sc2v2'](seed=1, **rewards, **args)\n"
        "one = first(env, 1)\n"
        "assert one.shape == (5, env.get_obs_size()), one.shape\n"
        "rng, steps, ended = np.random.default_rng(0), 0, False\n"
        "while not ended:\n"
        "    actions = [rng.choice(np.flatnonzero(row)) for row in env.get_avail_actions()]\n"
        "    _, _, terminated, truncated, info = env.step(actions)\n"
        "    ended = terminated or truncated\n"
        "assert 'battle_won' in info\n"
        "two = env.reset()[0]\n"
        "assert not np.array_equal(one, two)\n"
        "assert np.array_equal(one, first(env, 1))\n"
        "env.close()\n"
        "sc2 = load(CONFIG_DIR / 'envs/sc2.yaml')['env_args']\n"
        "try: envs.REGISTRY['sc2'](seed=1, **rewards, **sc2)\n"
        "except RuntimeError as error: assert 'one process' in str(error)\n"
        "else: raise SystemExit('both generations were loaded')\n"
    )
    environ = {**os.environ, "SC2PATH": str(stand_in), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="src", env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
