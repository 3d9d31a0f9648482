"""The paper's maps on SMAX: what their ground does, and that each can be won, though not by walking on."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from envs.smax import BatchedSMAX, SMAXEnv
from envs.smax_scenarios import SCENARIOS, UNITS
from envs.smax_scripted import Closest, Field, play, random, scripted
from envs.smax_simulator import make_simulator, smax_env

ROOT = Path(__file__).resolve().parents[2]
PAPER_MAPS = ("2s_vs_1sc", "3s_vs_3z", "2s3z", "3s_vs_4z", "3s_vs_5z", "1c3s5z", "8m", "corridor")


def maps(*quick):
    """The maps of the paper; compiling the ones that are not ``quick`` takes long."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in PAPER_MAPS]


def state_of(name, positions, alive):
    """A moment of a battle."""
    scenario, n = SCENARIOS[name], len(positions)
    return smax_env.State(
        done=jnp.array(False),
        step=jnp.array(0),
        unit_positions=jnp.asarray(positions, jnp.float32),
        unit_alive=jnp.asarray(alive),
        unit_teams=jnp.zeros(n),
        unit_health=jnp.ones(n),
        unit_types=jnp.array([scenario.unit_types.index(u) for u in scenario.allies + scenario.enemies]),
        unit_weapon_cooldowns=jnp.zeros(n),
        prev_movement_actions=jnp.zeros((n, 2)),
        prev_attack_actions=jnp.zeros(n, jnp.int32),
    )


def settled(name, positions, alive):
    """Where the ground lets units at these positions stand."""
    ground = make_simulator(SCENARIOS[name], "closest")._env
    return np.asarray(ground._push_units_away(state_of(name, positions, alive)).unit_positions)


@pytest.mark.parametrize("seed", range(5))
def test_few_are_in_the_neck_at_a_time_and_nobody_in_the_rocks(seed):
    rng, choke = np.random.default_rng(seed), SCENARIOS["corridor"].choke
    positions = np.stack([rng.uniform(11, 21, 30), rng.uniform(14, 18, 30)], axis=-1)
    alive = rng.random(30) < 0.8
    after = settled("corridor", positions, alive)
    from_middle = np.abs(after[:, 0] - 16)
    assert (alive & (from_middle < choke.length / 2 - 1e-3)).sum() <= choke.at_once
    half = choke.width / 2 + choke.opening * np.maximum(from_middle - choke.length / 2, 0)
    assert (np.abs(after[:, 1] - 16) <= half + 1e-3).all()


def test_who_is_farthest_in_the_neck_stays_and_the_others_wait_on_their_side():
    positions = np.full((30, 2), [1.0, 16.0])
    alive = np.zeros(30, dtype=bool)
    x = {0: 14.0, 1: 18.5, 6: 17.0, 7: 15.5, 8: 13.2}
    for unit, place in x.items():
        positions[unit], alive[unit] = (place, 16.0), True
    after = settled("corridor", positions, alive)
    np.testing.assert_allclose(after[[7, 6, 0], 0], [15.5, 17.0, 14.0], atol=0.2)
    np.testing.assert_allclose(after[[1, 8], 0], [19.0, 13.0], atol=1e-5)


def test_nothing_moves_a_spine_crawler():
    positions = np.array([[16.0, 16.0], [16.3, 16.5], [16.5, 16.0]])
    after = settled("2s_vs_1sc", positions, np.ones(3, dtype=bool))
    np.testing.assert_array_equal(after[2], positions[2])
    assert np.linalg.norm(after[0] - after[2]) > np.linalg.norm(positions[0] - positions[2])


@pytest.mark.parametrize("name", maps("2s_vs_1sc"))
def test_a_batch_and_a_single_battle_agree(name):
    """To the last bits, which XLA may round otherwise for two battles than for one."""
    same = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    pair, alone = BatchedSMAX([5, 6], name), SMAXEnv(seed=6, map_name=name)
    view, obs, rng = pair.reset(), alone.reset()[0], np.random.default_rng(0)
    for _ in range(25):
        same(obs, view.obs[1])
        actions = torch.from_numpy(random(view, rng))
        step = pair.step(actions)
        obs, reward, terminated, _, _ = alone.step(actions[1])
        same(alone.get_state(), step.arrived.state[1])
        np.testing.assert_array_equal(alone.get_avail_actions(), step.arrived.avail_actions[1])
        same(reward, step.reward[1, 0])
        assert terminated == step.terminated[1]
        if terminated:
            return
        view = step.view


@pytest.mark.parametrize("name", maps("2s_vs_1sc", "corridor"))
def test_a_scripted_player_wins_some_battles_and_who_attacks_the_closest_does_not_win_all(name):
    env, rng = BatchedSMAX([5, 6], name), np.random.default_rng(0)
    scripted_wins = sum(play(env, scripted(name), rng)["won"].sum() for _ in range(8))
    closest_wins = sum(play(env, Closest(SCENARIOS[name]), rng)["won"].sum() for _ in range(8))
    assert scripted_wins > 0
    assert closest_wins < 16


def test_players_see_the_battle_as_it_is():
    env, scenario = BatchedSMAX([5, 6], "2s_vs_1sc"), SCENARIOS["2s_vs_1sc"]
    view = env.reset()
    for _ in range(4):
        view = env.step(torch.tensor([[1, 4], [4, 4]])).view  # the first stalker walks east
    field, game = Field.of(view, scenario), env._battles.game
    np.testing.assert_allclose(field.at, game.unit_positions, atol=1e-4)
    np.testing.assert_allclose(field.health, game.unit_health, atol=1e-3)
    stay = field.distances(field.reachable())[:, :, 4, 0]
    np.testing.assert_allclose(stay, np.linalg.norm(field.at[:, :2] - field.at[:, 2:], axis=-1))
    moved = env.step(torch.full((2, 2), 1)).view
    np.testing.assert_allclose(Field.of(moved, scenario).at[:, :2], field.reachable()[:, :, 1], atol=1e-3)


def test_the_docs_state_the_units_and_maps_as_they_are():
    rows = [line.strip("| \n").split("|") for line in (ROOT / "docs/maps.md").read_text().splitlines()]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows if len(cells) > 1}
    for name, unit in UNITS.items():
        quantities = (
            unit.health,
            unit.damage,
            unit.cooldown,
            unit.range,
            unit.sight,
            unit.speed,
            unit.radius,
        )
        assert [float(cell) for cell in table[name.replace("_", " ")]] == list(quantities), name
    assert set(PAPER_MAPS) <= set(table)
