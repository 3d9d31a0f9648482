"""SMAX against the simulator it wraps, and the promises of a batched environment."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import envs
from envs.smax import BatchedSMAX, SMAXEnv, _step_key, make_rules
from envs.smax_scenarios import SCENARIOS, SIMULATOR_UNITS
from envs.smax_simulator import HeuristicEnemySMAX, smax_env

STOP, EAST = 4, 1


def random_actions(view, generator):
    weights = view.avail_actions.flatten(0, 1).float()
    return torch.multinomial(weights, 1, generator=generator).view(view.obs.shape[:2])


def shooting_actions(view):
    """The first enemy in range, or towards them."""
    attacks = view.avail_actions[..., STOP + 1 :]
    dead = view.avail_actions[..., 0] == 0
    move = torch.where(dead, STOP, EAST)
    return torch.where(attacks.any(-1), STOP + 1 + attacks.argmax(-1), move)


def assert_same(step, other, i=0, j=0):
    """Slot i of a step and slot j of another are equal, bit by bit."""
    for a, b in zip(jax.tree.leaves(tuple(step)), jax.tree.leaves(tuple(other)), strict=True):
        assert torch.equal(a[i], b[j])


@pytest.mark.parametrize("name", SCENARIOS)
def test_shapes_and_types_of_every_scenario(name):
    scenario = SCENARIOS[name]
    env = BatchedSMAX([1, 2], name)
    n, m, info = len(scenario.allies), len(scenario.enemies), env.info
    assert (info.n_agents, info.n_actions, info.episode_limit) == (n, 5 + m, 101)
    kinds = 6 + len({"colossus", "spine_crawler"} & {*scenario.allies, *scenario.enemies})
    assert info.obs_shape == (7 + kinds) * (n + m - 1) + 4 + kinds
    assert info.state_shape == (4 + kinds) * (n + m)
    battles = jax.eval_shape(env.rules.start, env._keys, jnp.zeros(2, jnp.int32))
    assert battles.obs.shape == (2, n + m, info.obs_shape)
    assert battles.avail.shape == (2, n, info.n_actions)


@pytest.mark.parametrize("name", ["3m", "2s3z", "smacv2_5_units", "2s_vs_1sc", "corridor"])
def test_a_step_gives_back_exactly_the_types_of_a_start(name):
    env = BatchedSMAX([1, 2], name)
    actions = jnp.zeros((2, env.info.n_agents), jnp.int32)
    battles = jax.eval_shape(env.rules.start, env._keys, jnp.zeros(2, jnp.int32))
    stepped, outcome, _, _ = jax.eval_shape(env.rules.step, battles, actions, jnp.ones(2, bool))
    for before, after in zip(jax.tree.leaves(battles), jax.tree.leaves(stepped), strict=True):
        assert (before.shape, before.dtype, before.weak_type) == (after.shape, after.dtype, after.weak_type)
    assert outcome.shape == (2, 6)


def test_scenarios_are_those_of_the_simulator():
    for name, theirs in smax_env.MAP_NAME_TO_SCENARIO.items():
        ours = SCENARIOS[name]
        assert (len(ours.allies), len(ours.enemies)) == (theirs.num_allies, theirs.num_enemies)
        types = [SIMULATOR_UNITS.index(unit) for unit in ours.allies + ours.enemies]
        assert types == theirs.unit_types.tolist()
        assert ours.smacv2 == theirs.smacv2_position_generation == theirs.smacv2_unit_type_generation
    added = {"3s_vs_3z", "3s_vs_4z", "1c3s5z", "2s_vs_1sc", "corridor"}
    assert set(SCENARIOS) - set(smax_env.MAP_NAME_TO_SCENARIO) == added


def test_units_are_those_of_the_simulator():
    theirs = HeuristicEnemySMAX(scenario=smax_env.MAP_NAME_TO_SCENARIO["2s3z"])._env
    ours = make_rules("2s3z", 1.0, "closest").env._env
    assert type(ours) is type(theirs)
    for name, value in vars(theirs).items():
        if name.startswith("unit_type_") and name != "unit_type_generator":  # what draws them, no property
            np.testing.assert_array_equal(value, getattr(ours, name), err_msg=name)


def test_battles_are_those_of_the_simulator():
    seed, generator = 3, torch.Generator().manual_seed(0)
    ours = BatchedSMAX([seed, 4], "3m")
    theirs = HeuristicEnemySMAX(scenario=smax_env.MAP_NAME_TO_SCENARIO["3m"])
    key, episode = jax.random.PRNGKey(seed), jnp.array(0)
    view = ours.reset()
    _, state = theirs.reset(_step_key(key, episode, 0))
    for t in range(200):
        actions = random_actions(view, generator)
        step = ours.step(actions)
        by_name = {name: jnp.array(int(actions[0, i])) for i, name in enumerate(theirs.agents)}
        obs, state, reward, done, _ = theirs.step_env(_step_key(key, episode, t + 1), state, by_name)
        avail = theirs.get_avail_actions(state)
        for i, name in enumerate(theirs.agents):
            np.testing.assert_allclose(step.arrived.obs[0, i], obs[name], atol=1e-5)
            np.testing.assert_array_equal(step.arrived.avail_actions[0, i], avail[name])
        assert step.reward[0].item() == pytest.approx(10 * float(reward["ally_0"]), abs=1e-4)
        assert (step.terminated[0] or step.truncated[0]) == bool(done["__all__"])
        if done["__all__"]:
            return
        view = step.view
    raise AssertionError("the battle does not end")


def test_other_work_has_no_part_in_a_step():
    plain, busy = BatchedSMAX([1, 2], "3m"), BatchedSMAX([1, 2], "3m")
    view, generator, calls = plain.reset(), torch.Generator().manual_seed(0), []
    busy.reset()
    for _ in range(40):
        actions = random_actions(view, generator)
        step = plain.step(actions)
        other = busy.step(
            actions, meanwhile=lambda: calls.append(torch.randn(300, 300) @ torch.randn(300, 300))
        )
        view = step.view
        assert all(torch.equal(a, b) for a, b in zip(view, other.view, strict=True))
        assert torch.equal(step.reward, other.reward)
    assert len(calls) == 40


def test_the_state_is_scaled_and_zero_for_the_dead():
    env = BatchedSMAX([1, 2], "3m")
    view, dead_seen = env.reset(), False
    for _ in range(60):
        step = env.step(shooting_actions(view))
        units = step.arrived.state.view(2, 6, 10)
        assert units.min() >= 0
        assert units.max() <= 1
        dead = units[..., 0] == 0
        assert units[dead].eq(0).all()
        assert units[~dead][:, 4:].sum(-1).eq(1).all()
        assert torch.equal(dead[:, :3].sum(1).float(), step.info["dead_allies"])
        assert torch.equal(dead[:, 3:].sum(1).float(), step.info["dead_enemies"])
        dead_seen |= bool(dead.any())
        view = step.view
    assert dead_seen


def test_a_win_returns_20_and_ends_the_battle_as_terminal():
    env = BatchedSMAX([1, 2], "3m")
    view, returns, results = env.reset(), torch.zeros(2, 1), []
    while len(results) < 30:
        step = env.step(shooting_actions(view))
        returns += step.reward
        for i in (step.terminated | step.truncated).nonzero().flatten().tolist():
            assert step.terminated[i]
            won = step.info["battle_won"][i].item()
            assert won == float(step.info["dead_enemies"][i] == 3 and step.info["dead_allies"][i] < 3)
            results.append((won, returns[i].item()))
            returns[i] = 0
        view = step.view
    assert {won for won, _ in results} == {0.0, 1.0}
    for won, value in results:
        assert value == pytest.approx(20, abs=1e-3) if won else value < 10.001


def test_a_time_limit_truncates_after_episode_limit_steps_and_keeps_the_arrival():
    env = BatchedSMAX([1, 2], "3m", max_steps=5)
    assert env.info.episode_limit == 6
    first = env.reset()
    for t in range(1, 7):
        step = env.step(torch.full((2, 3), STOP))
        assert not step.terminated.any()
        assert step.truncated.all() == step.truncated.any() == (t == 6)
    assert not torch.equal(step.arrived.obs, step.view.obs)
    assert not torch.equal(step.view.obs, first.obs)
    assert step.info["battle_won"].eq(0).all()
    # Enemies had walked towards the allies when the time was up, and stand back in the new battle.
    enemy_x = [view.state.view(2, 6, 10)[:, 3:, 1].mean() for view in (first, step.arrived, step.view)]
    assert enemy_x[1] < enemy_x[0] - 0.1
    assert enemy_x[2] > enemy_x[0] - 0.1


def test_a_slot_depends_on_its_own_seed_and_actions_only():
    generator = torch.Generator().manual_seed(1)
    pair, other, alone = BatchedSMAX([5, 6], "3m"), BatchedSMAX([6, 9], "3m"), SMAXEnv(seed=6, map_name="3m")
    view = pair.reset()
    other_view = other.reset()
    alone.reset()
    for _ in range(80):
        assert torch.equal(view.obs[1], other_view.obs[0])
        actions = random_actions(view, generator)
        mixed = random_actions(other_view, generator)
        mixed[0] = actions[1]
        step, other_step = pair.step(actions), other.step(mixed)
        assert_same(step, other_step, 1, 0)
        obs, reward, terminated, truncated, info = alone.step(actions[1])
        np.testing.assert_array_equal(obs, step.arrived.obs[1])
        np.testing.assert_array_equal(alone.get_state(), step.arrived.state[1])
        np.testing.assert_array_equal(alone.get_avail_actions(), step.arrived.avail_actions[1])
        assert (reward, terminated, truncated) == (step.reward[1], step.terminated[1], step.truncated[1])
        assert info["dead_allies"] == step.info["dead_allies"][1]
        if terminated or truncated:
            alone.reset()
        view, other_view = step.view, other_step.view


def test_reset_replays_the_same_battles_and_neighbouring_episodes_differ():
    env = BatchedSMAX([1, 2], "3m")

    def play():
        view, steps = env.reset(), []
        for _ in range(40):
            steps.append(env.step(shooting_actions(view)))
            view = steps[-1].view
        return steps

    first, second = play(), play()
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)
    starts = [s.view.obs[0] for s in first if s.terminated[0]]
    assert len(starts) >= 2
    assert not torch.equal(starts[0], starts[1])


def test_inactive_slots_stay_as_they_are():
    env, reference = BatchedSMAX([1, 2], "3m"), BatchedSMAX([1, 2], "3m")
    view = env.reset()
    reference.reset()
    for _ in range(5):
        step = env.step(shooting_actions(view), active=torch.tensor([True, False]))
        assert torch.equal(step.view.obs[1], view.obs[1])
        view = step.view
    actions = shooting_actions(view)
    assert_same(env.step(actions), reference.step(actions), 1, 1)


def test_a_restored_batch_goes_on_identically():
    env, other = BatchedSMAX([1, 2], "3m"), BatchedSMAX([8, 9], "3m")
    view = env.reset()
    for _ in range(7):
        view = env.step(shooting_actions(view)).view
    other.load_state_dict({"battles": [leaf.clone() for leaf in env.state_dict()["battles"]]})
    for _ in range(40):
        actions = shooting_actions(view)
        step, other_step = env.step(actions), other.step(actions)
        assert_same(step, other_step, 0, 0)
        assert_same(step, other_step, 1, 1)
        view = step.view


def test_single_environment_resets_to_the_next_episode_at_any_time():
    env, batch = SMAXEnv(seed=6, map_name="3m"), BatchedSMAX([6, 7], "3m")
    first = env.reset()[0]
    assert env.get_env_info() == batch.info.as_dict()
    np.testing.assert_array_equal(first, batch.reset().obs[0])
    env.step([STOP] * 3)
    second = env.reset()[0]
    np.testing.assert_array_equal(second, batch.start_next_episodes().obs[0])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=6)[0], first)
    np.testing.assert_array_equal(env.get_obs_agent(1), first[1])


def test_rewards_of_single_agents_are_refused():
    args = SimpleNamespace(
        env="smax",
        env_args={"map_name": "3m"},
        runner="vector",
        common_reward=False,
        reward_scalarisation="sum",
    )
    with pytest.raises(ValueError, match="common_reward"):
        envs.make_batched(args, [1])


PLAY = """
import torch
from envs.smax import BatchedSMAX
env = BatchedSMAX([1, 2], "3m")
env.reset()
for action in range(4):
    step = env.step(torch.full((2, 3), action, dtype=torch.int32))
print(step.view.obs.double().sum().item())
"""


def test_what_is_compiled_is_kept_for_later_runs(tmp_path):
    def play() -> tuple[str, dict[str, int]]:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PLAY],
            cwd="src", env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout, {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-cache")}

    played, compiled = play()
    assert any(name.startswith("jit__step") for name in compiled)
    assert play() == (played, compiled)


def test_a_folder_that_cannot_keep_what_is_compiled_hinders_nothing(tmp_path):
    (tmp_path / "file").touch()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "file" / "folder")}
    done = subprocess.run([sys.executable, "-c", PLAY], cwd="src", env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
