"""Players of SMAX battles that learn nothing: what a learner has to beat, and proof that each map can be won.

A player looks at all units of B battles at once, through the same :class:`~envs.batched_env.View` that
learners' critics see, and names an available action for every ally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from envs.batched_env import View
from envs.smax import BatchedSMAX
from envs.smax_scenarios import SCENARIOS, UNITS, Scenario
from envs.smax_simulator import heuristic_enemy, make_simulator

MAP_SIZE = 32.0  # width and height
STEP = 0.5  # seconds of one joint step
DIRECTIONS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]])  # of actions 0 to 4; 4 stops
STOP, N_MOVES = 4, 5
READY = 0.3  # seconds of cooldown left with which an attack still falls early within the step
FAR = 1e3

Player = Callable[[View, np.random.Generator], np.ndarray]  # (B, n_allies) actions


@dataclass(frozen=True)
class Field:
    """Where all units of B battles stand; allies first. Lengths in the map's unit, times in seconds."""

    health: np.ndarray  # (B, units) hit points, 0 of the dead
    at: np.ndarray  # (B, units, 2)
    cooldown: np.ndarray  # (B, units) until the weapon is ready
    speed: np.ndarray  # (units,)
    n: int  # allies
    avail: np.ndarray  # (B, n, actions) bool

    @classmethod
    def of(cls, view: View, scenario: Scenario) -> Field:
        kinds = [UNITS[unit] for unit in scenario.allies + scenario.enemies]
        units = view.state.numpy().reshape(len(view.state), len(kinds), -1)
        return cls(
            health=units[..., 0] * [kind.health for kind in kinds],
            at=units[..., 1:3] * MAP_SIZE,
            cooldown=units[..., 3] * [kind.cooldown for kind in kinds],
            speed=np.array([kind.speed for kind in kinds]),
            n=len(scenario.allies),
            avail=view.avail_actions.numpy() > 0,
        )

    @property
    def in_range(self) -> np.ndarray:
        """(B, n, enemies) whether an ally may attack an enemy."""
        return self.avail[..., N_MOVES:]

    @property
    def ready(self) -> np.ndarray:
        """(B, n) whether an ally's attack would fall within the next step."""
        return self.cooldown[:, : self.n] <= READY

    @property
    def moves(self) -> np.ndarray:
        """(n, 5, 2) the way an ally makes by each move."""
        return DIRECTIONS * (self.speed[: self.n, None, None] * STEP)

    def reachable(self) -> np.ndarray:
        """(B, n, 5, 2) where each move would take an ally."""
        return self.at[:, : self.n, None] + self.moves

    def distances(self, points: np.ndarray) -> np.ndarray:
        """(B, n, k, 2) points -> (B, n, k, enemies) distances to living enemies, far for the dead."""
        distances = np.linalg.norm(points[..., None, :] - self.at[:, None, None, self.n :], axis=-1)
        return np.where(self.health[:, None, None, self.n :] > 0, distances, FAR)

    def to_nearest(self, points: np.ndarray) -> np.ndarray:
        """(B, n, ..., 2) points -> (B, n, ...) distances to the nearest living enemy."""
        shape = points.shape[:-1]
        return self.distances(points.reshape(*shape[:2], -1, 2)).min(axis=-1).reshape(shape)

    def weakest_in_range(self) -> np.ndarray:
        """(B, n) the attack on the enemy in range with the least health; equals by their distance."""
        stay = self.distances(self.reachable())[:, :, STOP]
        worth = self.health[:, None, self.n :] + 0.01 * stay
        return N_MOVES + np.where(self.in_range, worth, FAR).argmin(axis=-1)

    def legal(self, actions: np.ndarray) -> np.ndarray:
        """Let the dead stop, who can do nothing else."""
        return np.where(self.health[:, : self.n] > 0, actions, STOP)


def _walls(points: np.ndarray) -> np.ndarray:
    """How much a unit should shun points (..., 2) for the deadly border of the map."""
    margin = np.minimum(points, MAP_SIZE - points).min(axis=-1)
    return np.where(margin < 0.5, FAR, 1.0 / np.maximum(margin, 0.5) ** 2)


def random(view: View, rng: np.random.Generator) -> np.ndarray:
    """Uniform over the available actions."""
    avail = view.avail_actions.numpy()
    return np.where(avail > 0, rng.random(avail.shape), -1.0).argmax(axis=-1)


def play(env: BatchedSMAX, player: Player, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One battle in each slot, all starting together; returns (B,) arrays: won, timed_out, return, length."""
    view, active = env.start_next_episodes(), torch.ones(env.n_envs, dtype=torch.bool)
    played = {key: np.zeros(env.n_envs) for key in ("won", "timed_out", "return", "length")}
    while active.any():
        step = env.step(torch.from_numpy(player(view, rng)), active)
        ended = ((step.terminated | step.truncated) & active).numpy()
        played["length"] += active.numpy()
        played["return"] += step.reward[:, 0].numpy() * active.numpy()
        played["won"][ended] = step.info["battle_won"].numpy()[ended]
        played["timed_out"][ended] = step.truncated.numpy()[ended]
        active, view = active & ~torch.from_numpy(ended), step.view
    return played


class Closest:
    """The policy of the enemy, playing the allies: attacks the closest enemy in range until it is dead, else
    walks to one that is visible, else to the enemy's side. For battles that start together."""

    def __init__(self, scenario: Scenario):
        policy = heuristic_enemy.create_heuristic_policy(make_simulator(scenario, "closest")._env, team=0)
        self._act = jax.jit(jax.vmap(jax.vmap(policy)))
        self._memory: Any = None

    def __call__(self, view: View, rng: np.random.Generator) -> np.ndarray:
        shape = view.obs.shape[:2]
        if self._memory is None:
            start = heuristic_enemy.get_heuristic_policy_initial_state()
            self._memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), start)
        keys = jax.random.split(jax.random.PRNGKey(rng.integers(2**31)), shape)
        actions, self._memory = self._act(keys, self._memory, jnp.asarray(view.obs.numpy()))
        can_move = view.avail_actions[..., 0].numpy() > 0
        return np.where(can_move, np.asarray(actions), STOP)


def kite(scenario: Scenario, safe: float) -> Player:
    """For units that shoot farther and run faster than their enemies: shoot whenever the weapon is ready and
    no enemy is nearer than ``safe``, else keep away."""

    def act(view: View, rng: np.random.Generator) -> np.ndarray:
        field = Field.of(view, scenario)
        points = field.reachable()
        distances = field.distances(points)
        nearest = distances[:, :, STOP].min(axis=-1)
        shoot = field.ready & field.in_range.any(axis=-1) & (nearest > safe)
        flee = ((1.0 / distances**2).sum(axis=-1) + 0.3 * _walls(points)).argmin(axis=-1)
        hunt = (np.abs(distances.min(axis=-1) - 5.0) + _walls(points)).argmin(axis=-1)
        move = np.where(field.ready & (nearest > 6), hunt, flee)
        return field.legal(np.where(shoot, field.weakest_in_range(), move))

    return act


def hit_and_run(scenario: Scenario, reach: float) -> Player:
    """Against one slow weapon of more ``reach``: all step into range together when their weapons are ready,
    shoot once and step out again. The nearest is shot at, so the healthiest goes in front."""
    into_range = UNITS[scenario.allies[0]].range - 0.1

    def act(view: View, rng: np.random.Generator) -> np.ndarray:
        field = Field.of(view, scenario)
        own, step = field.health[:, : field.n], field.moves
        # Distances after one move (B, n, 5), two (B, n, 5, 5) and three.
        points = field.reachable()
        one = field.to_nearest(points)
        two = field.to_nearest(points[..., None, :] + step[:, None])
        three = field.to_nearest(points[..., None, None, :] + step[:, None, None] + step[:, None, :, None])
        in_front = (own >= own.max(axis=1, keepdims=True))[..., None]
        together = ((one.min(axis=-1) < into_range) & (field.cooldown[:, : field.n] <= STEP)) | (own == 0)
        enter = np.where(one < into_range, np.where(in_front, one, -one), FAR)
        # Where to wait: out of reach, one move from where to shoot; the others line up to come less near.
        behind = np.where(three < into_range, three, 0.0).max(axis=-1)
        stand = 1.0 * (two < reach) + 1.0 * (behind == 0) + 0.05 * two - 0.3 * behind * ~in_front[..., None]
        wait = 1.0 * (one < reach) + 0.05 * one + stand.min(axis=-1) + _walls(points)
        wait += 0.2 * rng.random(wait.shape)  # or two could wait for each other for good
        move = np.where(together.all(axis=1, keepdims=True), enter.argmin(axis=-1), wait.argmin(axis=-1))
        shoot = field.ready & field.in_range.any(axis=-1)
        return field.legal(np.where(shoot, field.weakest_in_range(), move))

    return act


def focus(scenario: Scenario) -> Player:
    """All shoot at the weakest enemy in range, or walk to the nearest one."""

    def act(view: View, rng: np.random.Generator) -> np.ndarray:
        field = Field.of(view, scenario)
        approach = field.to_nearest(field.reachable()).argmin(axis=-1)
        return field.legal(np.where(field.in_range.any(axis=-1), field.weakest_in_range(), approach))

    return act


def hold(scenario: Scenario, posts: np.ndarray) -> Player:
    """Await the enemy at ``posts`` (n, 2) and attack the weakest who comes into range."""

    def act(view: View, rng: np.random.Generator) -> np.ndarray:
        field = Field.of(view, scenario)
        distances = np.linalg.norm(field.reachable() - posts[:, None], axis=-1)
        return field.legal(
            np.where(field.in_range.any(axis=-1), field.weakest_in_range(), distances.argmin(axis=-1))
        )

    return act


def scripted(map_name: str) -> Player:
    """The player that knows how a map of the paper, or a small one, is won."""
    scenario = SCENARIOS[map_name]
    if map_name.startswith("3s_vs_"):
        return kite(scenario, safe=2.4)
    if map_name == "2s_vs_1sc":
        return hit_and_run(scenario, reach=UNITS["spine_crawler"].range)
    if map_name == "corridor":
        return hold(scenario, _half_circle(np.array([MAP_SIZE / 2 - 1.5, MAP_SIZE / 2]), 1.9, 6))
    return focus(scenario)


def _half_circle(centre: np.ndarray, radius: float, n: int) -> np.ndarray:
    """(n, 2) points around the west of ``centre``."""
    angles = np.radians(np.linspace(-80, 80, n))
    return centre + radius * np.stack([-np.cos(angles), np.sin(angles)], axis=-1)
