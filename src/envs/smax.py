"""SMAX: StarCraft-like battles against the heuristic enemy of ``jaxmarl``, many in one compiled call."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

# The simulator works on small arrays, for which a CPU is faster, and a GPU's memory is left to torch.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A kind of battle takes seconds to compile, so what is compiled is kept for later runs. It is locked against
# runs that start at the same time only where its size has a limit.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[2] / ".cache" / "jax")
)
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**28))

import jax
import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from envs.batched_env import BatchedEnv, BatchedStep, EnvInfo, View, idle
from envs.multiagentenv import Info, MultiAgentEnv
from envs.smax_drawing import Units, draw
from envs.smax_scenarios import SCENARIOS, Scenario
from envs.smax_simulator import make_simulator

# Instead of XLA's usual 3: a battle is compiled in three quarters of the time, and steps are as fast; with 0
# they are half as fast.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}

Array = jax.Array
T = TypeVar("T", Array, Tensor)


class Battles(NamedTuple):
    """State of B battles (B is missing inside the functions of one battle)."""

    key: Array  # (B, 2) uint32: the slot's random key, always the same
    episode: Array  # (B,) int32: how many episodes the slot has ended
    game: Any  # the simulator's own state
    enemy: Any  # state of the enemy's heuristic policy
    obs: Array  # (B, n_units, obs_size) float32: allies' and enemies' observations of ``game``
    avail: Array  # (B, n_agents, n_actions) int32


class Outcome(NamedTuple, Generic[T]):
    """What a step reports of a battle; float32, so that one array holds it all."""

    reward: T
    terminated: T
    truncated: T
    battle_won: T
    dead_allies: T
    dead_enemies: T


class SmaxRules:
    """One kind of battle as pure, compiled functions of :class:`Battles`."""

    def __init__(self, scenario: Scenario, reward_scale: float, attack_mode: str, **options: Any):
        self.env = make_simulator(scenario, attack_mode=attack_mode, **options)
        self.reward_scale = reward_scale
        self.n_allies, self.n_enemies = len(scenario.allies), len(scenario.enemies)
        self.n_own_features = len(self.env.own_features)
        self.info = EnvInfo(
            n_agents=self.n_allies,
            n_actions=self.env.num_ally_actions,
            obs_shape=self.env.obs_size,
            state_shape=(self.n_allies + self.n_enemies) * self.n_own_features,
            # The simulator compares its clock with max_steps before it advances it.
            episode_limit=self.env.max_steps + 1,
        )
        compiled = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
        self.start = compiled(lambda key, episode: _strong(jax.vmap(self._start)(key, episode)))
        self.step = compiled(self._step)

    def _start(self, key: Array, episode: Array) -> Battles:
        """Battle number ``episode`` of the slot with this key."""
        _, state = self.env.reset(_step_key(key, episode, 0))
        return self._battle(key, episode, state.state, state.enemy_policy_state)

    def _battle(self, key: Array, episode: Array, game: Any, enemy: Any, obs: Any = None) -> Battles:
        obs = self.env._env.get_obs(game) if obs is None else obs
        avail = self.env._env.get_avail_actions(game)
        return Battles(
            key,
            episode,
            game,
            enemy,
            jnp.stack([obs[unit] for unit in self.env.all_agents]),
            jnp.stack([avail[unit] for unit in self.env.agents]).astype(jnp.int32),
        )

    def _advance(self, battle: Battles, actions: Array) -> tuple[Battles, Array]:
        """One battle, one step; the second result stacks an :class:`Outcome`.

        The enemy acts on the observations kept in ``battle``: recomputing them, as ``jaxmarl`` does, is dear.
        """
        key = _step_key(battle.key, battle.episode, battle.game.step + 1)
        key, enemy_key = jax.random.split(key)
        by_name, enemy = self.env.get_enemy_actions(enemy_key, battle.enemy, battle.obs[self.n_allies :])
        enemy_actions = jnp.stack([by_name[unit] for unit in self.env.enemy_agents])
        orders = self.env._env._decode_discrete_actions(jnp.concatenate([actions, enemy_actions]))
        obs, game, rewards, _, _ = self.env._env.step_env_no_decode(key, battle.game, orders)
        allies, enemies = game.unit_alive[: self.n_allies], game.unit_alive[self.n_allies :]
        terminated = ~allies.any() | ~enemies.any()
        outcome = Outcome(
            reward=rewards[self.env.agents[0]] * self.reward_scale,
            terminated=terminated,
            truncated=game.done & ~terminated,
            battle_won=allies.any() & ~enemies.any(),
            dead_allies=(~allies).sum(),
            dead_enemies=(~enemies).sum(),
        )
        stacked = jnp.stack([x.astype(jnp.float32) for x in outcome])
        return self._battle(battle.key, battle.episode, game, enemy, obs), stacked

    def _step(self, battles: Battles, actions: Array, active: Array) -> tuple[Battles, Array, Array, Array]:
        """Steps the active battles and starts the next one where one ended.

        Returns the battles afterwards, the stacked outcomes (B, 6), and the observations and availability
        that the step led to, before any new start.
        """
        moved, outcome = jax.vmap(self._advance)(battles, actions)
        moved = _choose(active, _strong(moved), battles)
        ended = (outcome[:, 1:3] > 0).any(axis=1) & active

        def restart(battles: Battles) -> Battles:
            return _choose(ended, _strong(jax.vmap(self._start)(battles.key, battles.episode + 1)), battles)

        following = jax.lax.cond(ended.any(), restart, lambda battles: battles, moved)
        return following, outcome, moved.obs, moved.avail

    def view(self, obs: Array, avail: Array) -> View:
        """What the allies see, without copying. The global state is every unit's own features, with which its
        observation ends: health, position and weapon cooldown relative to their greatest values, and type;
        zeros if dead.
        """
        units = from_dlpack(obs)
        state = units[..., -self.n_own_features :].reshape(len(units), -1)
        return View(units[:, : self.n_allies], state, from_dlpack(avail))


def _step_key(key: Array, episode: Array, step: Array | int) -> Array:
    """The random key of one step: a pure function of slot, episode and step (0 is the reset)."""
    return jax.random.fold_in(jax.random.fold_in(key, episode), step)


def _strong(tree: Any) -> Any:
    """Makes weak types strong: what a reset and what a step returns have equal types then, and the step is
    compiled only once."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def _choose(mask: Array, new: Any, old: Any) -> Any:
    """Per battle ``new`` where the mask (B,) is set, else ``old``."""

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, new, old)


@functools.lru_cache(maxsize=16)
def make_rules(map_name: str, reward_scale: float, attack_mode: str, **options: Any) -> SmaxRules:
    """The rules of a battle; equal arguments give the same object, so that what is compiled is shared."""
    return SmaxRules(SCENARIOS[map_name], reward_scale, attack_mode, **options)


class BatchedSMAX(BatchedEnv):
    """One battle per seed, stepped in one compiled call.

    Args:
        seeds: one per slot.
        map_name: a key of ``SCENARIOS``.
        reward_scale: factor on rewards; unscaled, a won battle returns 2 (damage 1, winning 1).
        max_steps: setting of the time limit; the last possible step is number ``max_steps + 1``.
        see_enemy_actions: observations show what visible enemies last did.
        walls_cause_death: units that touch the border of the map die.
        attack_mode: whom the enemy shoots at, "closest" or "random".
    """

    def __init__(
        self,
        seeds: Sequence[int],
        map_name: str,
        reward_scale: float = 10.0,
        max_steps: int = 100,
        see_enemy_actions: bool = True,
        walls_cause_death: bool = True,
        attack_mode: str = "closest",
    ):
        self.rules = make_rules(
            map_name,
            float(reward_scale),
            attack_mode,
            max_steps=max_steps,
            see_enemy_actions=see_enemy_actions,
            walls_cause_death=walls_cause_death,
        )
        self.n_envs, self.info = len(seeds), self.rules.info
        self._keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])
        self._all_active = np.ones(self.n_envs, dtype=bool)
        self._battles: Battles | None = None

    def reset(self) -> View:
        return self._start(jnp.zeros(self.n_envs, dtype=jnp.int32))

    def start_next_episodes(self) -> View:
        """Gives up all battles and starts the following ones."""
        return self.reset() if self._battles is None else self._start(self._battles.episode + 1)

    def _start(self, episodes: Array) -> View:
        self._battles = self.rules.start(self._keys, episodes)
        return self.rules.view(self._battles.obs, self._battles.avail)

    def step(
        self, actions: Tensor, active: Tensor | None = None, meanwhile: Callable[[], object] = idle
    ) -> BatchedStep:
        stepped = self.rules.step(
            self._battles,
            actions.to(device="cpu", dtype=torch.int32).numpy(),
            self._all_active if active is None else active.numpy(),
        )
        meanwhile()  # a thread of the simulator's computes the step
        self._battles, stacked, obs, avail = jax.block_until_ready(stepped)
        outcome = Outcome(*from_dlpack(stacked).unbind(dim=1))
        return BatchedStep(
            reward=outcome.reward.unsqueeze(1),
            terminated=outcome.terminated > 0,
            truncated=outcome.truncated > 0,
            arrived=self.rules.view(obs, avail),
            view=self.rules.view(self._battles.obs, self._battles.avail),
            info={key: getattr(outcome, key) for key in ("battle_won", "dead_allies", "dead_enemies")},
        )

    def picture(self, slot: int) -> Image.Image:
        """The battle in a slot as it is now."""
        game, rules = self._battles.game, self.rules.env._env  # type: ignore[union-attr]
        types = np.asarray(game.unit_types[slot])
        units = Units(
            positions=np.asarray(game.unit_positions[slot]),
            health=np.asarray(game.unit_health[slot] * game.unit_alive[slot]) / rules.unit_type_health[types],
            radius=np.asarray(rules.unit_type_radiuses)[types],
            shooting=np.asarray(game.prev_attack_actions[slot]) >= rules.num_movement_actions,
            letters=[rules.unit_type_shorthands[kind] for kind in types],
            n_allies=self.rules.n_allies,
        )
        return draw(units, (rules.map_width, rules.map_height))

    def state_dict(self) -> dict[str, Any]:
        leaves = [] if self._battles is None else jax.tree.leaves(self._battles)
        return {"battles": [torch.from_numpy(np.array(leaf)) for leaf in leaves]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        if state["battles"]:
            leaves = [jnp.asarray(leaf.numpy()) for leaf in state["battles"]]
            self._battles = jax.tree.unflatten(jax.tree.structure(self._battles), leaves)
            self._keys = self._battles.key


class SMAXEnv(MultiAgentEnv):
    """One battle with the single-environment interface: a batch of one, with the arguments of the batch."""

    def __init__(self, seed: int, **env_args: Any):
        self._env_args = env_args
        self.seed(seed)
        info = self._battle.info
        self.n_agents, self.episode_limit = info.n_agents, info.episode_limit

    def seed(self, seed: int | None = None) -> None:
        self._battle = BatchedSMAX([0 if seed is None else seed], **self._env_args)
        self._next: View | None = None  # first view of the next episode, once this one has ended

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        if seed is not None:
            self.seed(seed)
        self._now = self._battle.start_next_episodes() if self._next is None else self._next
        self._next = None
        return self.get_obs(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        step = self._battle.step(torch.as_tensor(actions).reshape(1, -1))
        self._now = step.arrived
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        if terminated or truncated:
            self._next = step.view
        info = {key: value.item() for key, value in step.info.items()}
        return self.get_obs(), step.reward.item(), terminated, truncated, info

    def state_dict(self) -> dict[str, Any]:
        views = {"now": self._now, "next": self._next}
        lists = {name: None if view is None else list(view) for name, view in views.items()}
        return {"battle": self._battle.state_dict(), **lists}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._battle.load_state_dict(state["battle"])
        self._now = View(*state["now"])
        self._next = None if state["next"] is None else View(*state["next"])

    def get_obs(self) -> np.ndarray:
        return self._now.obs[0].numpy()

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        return self.get_obs()[agent_id]

    def get_obs_size(self) -> int:
        return self._battle.info.obs_shape

    def get_state(self) -> np.ndarray:
        return self._now.state[0].numpy()

    def get_state_size(self) -> int:
        return self._battle.info.state_shape

    def get_avail_actions(self) -> np.ndarray:
        return self._now.avail_actions[0].numpy()

    def get_avail_agent_actions(self, agent_id: int) -> np.ndarray:
        return self.get_avail_actions()[agent_id]

    def get_total_actions(self) -> int:
        return self._battle.info.n_actions
