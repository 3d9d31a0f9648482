"""SMAC on StarCraft II: the official ``smac`` package behind this project's interface, with guards around it.

The package restarts a game that failed and reports the step as the end of the episode, starts a second game
when it is reset twice, and declares sizes that it does not keep. Here one object of the package lives exactly
as long as one game: whatever fails, both are given up and the next reset starts new ones.

:func:`envs.sc2_preflight.use_python_protobuf` must have been called before this module is imported.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import numpy as np
from absl import flags

from envs import sc2_preflight
from envs.multiagentenv import EpisodeLost, Info, MultiAgentEnv, SimulatorError
from envs.sc2_games import GAME_ERRORS, memory_mb
from utils.seeding import spawn

LAUNCH_ATTEMPTS = 2
COUNTS = ("battles_won", "battles_game", "timeouts")  # what the package counts in a game's life

log = logging.getLogger("marl.envs")


class SC2Restart(EpisodeLost):
    """The game ended, hung or answered nonsense: its episode is lost."""

    counter = "sc2_restarts"


class Guard:
    """To be mixed into the package's environment: it gives up a game that fails, and starts no other."""

    step_timeout: float
    """Seconds that the game may take to answer once the battle has begun."""
    expected: dict[str, str]
    """Version and build of the game as the record has them."""

    def _launch(self) -> None:
        super()._launch()  # type: ignore[misc]
        controller = self._controller  # type: ignore[attr-defined]
        _require_version(controller.ping(), self.expected)
        controller._client._sock.settimeout(self.step_timeout)

    def full_restart(self) -> None:
        """What the package calls when the game has failed."""
        raise SC2Restart(f"it does not answer: {sys.exception()}")

    def init_units(self, *args: Any, **kwargs: Any) -> None:
        """Find the units of a new battle. Until all are there the package looks again, and it adds the
        enemies' health to the greatest return at each look: that is put right here."""
        super().init_units(*args, **kwargs)  # type: ignore[misc]
        game: Any = self
        if game._episode_count == 0:
            health = sum(unit.health_max + unit.shield_max for unit in game.enemies.values())
            game.max_reward = game.n_enemies * game.reward_death_value + game.reward_win + health


class SMACGuard(Guard):
    """What the first generation needs besides."""

    def get_obs_size(self) -> int:
        """The length that observations really have: the package forgets the number of the step."""
        size: int = super().get_obs_size()  # type: ignore[misc]
        return size + int(self.obs_timestep_number)  # type: ignore[attr-defined]


def _require_version(ping: Any, expected: dict[str, str]) -> None:
    """Make sure that the record does not call something StarCraft II that is none, or the other way round.

    Raises:
        SimulatorError: the game is another one than its folder says.
    """
    said, recorded = ping.game_version, expected["game_version"]
    both_real = sc2_preflight.is_release(said) and sc2_preflight.is_release(recorded)
    if not both_real and said != recorded:
        raise SimulatorError(
            f"The game calls itself {said}, but its folder says {recorded}: install the game anew with "
            f"{sc2_preflight.INSTALL_GAME}"
        )
    if both_real and str(ping.base_build) != expected["game_build"]:
        log.warning("The game is of build %s; the record says %s", ping.base_build, expected["game_build"])


class SC2Env(MultiAgentEnv):
    """One battle after the other in one game.

    A battle that was won or lost is terminated and one that reached the time limit truncated, whatever
    ``continuing_episode`` says.

    Args:
        seed: the game's random seed; :meth:`reset` with a seed starts a new game.
        map_name: SMAC map.
        difficulty: level of the built-in enemy, "1" to "9" or "A".
        launch_timeout: seconds that the game may take to start.
        step_timeout: seconds that it may take for each answer in battle.
        save_replay: save a replay of each game when it ends.
        common_reward: must be True, SMAC rewards the team.
        reward_scalarisation: without meaning, as there is one reward.
        smac_args: further arguments of the package's ``StarCraft2Env``, under EPyMARL's names.
    """

    name = "sc2"  # in the registry

    def __init__(
        self,
        seed: int,
        map_name: str,
        difficulty: str | int = "7",
        launch_timeout: int = 60,
        step_timeout: float = 60,
        save_replay: bool = False,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
        **smac_args: Any,
    ):
        if not common_reward:
            raise ValueError("SMAC rewards the team as a whole, so common_reward must be True.")
        self._args = {"map_name": map_name, "difficulty": str(difficulty), **smac_args}
        if self._args.get("reward_sparse"):
            self._args["reward_scale"] = False  # the package would scale the 1 of a win down to some 0.03
        prefix = self._args.get("replay_prefix") or map_name
        self._args["replay_prefix"] = f"{prefix}_{os.getpid()}"  # replays' names tell time in seconds only
        self._step_timeout, self._save_replay = step_timeout, save_replay
        self._launch_timeout = launch_timeout
        self._expected = sc2_preflight.versions(self.name, self._args)
        self._seed, self._launches = seed, 0
        self._past = dict.fromkeys(COUNTS, 0)
        self._restarts = 0
        self._game = self._make(seed)  # not launched yet: it tells the sizes
        self._running = self._in_battle = False
        self.n_agents, self.episode_limit = self._game.n_agents, self._game.episode_limit

    def _make(self, seed: int) -> Any:
        """An environment of the package with the guard, not launched yet."""
        if "smacv2" in sys.modules:
            raise RuntimeError("SMAC and SMACv2 cannot be used in one process: start another one for SMAC.")
        from smac.env import StarCraft2Env

        game = type("GuardedStarCraft2Env", (SMACGuard, StarCraft2Env), {})(**self._args, seed=seed % 2**32)
        game.step_timeout, game.expected = self._step_timeout, self._expected
        return game

    def seed(self, seed: int | None = None) -> None:
        """From the next reset on, a new game with this seed is played."""
        if seed is not None:
            self._end()
            self._seed, self._launches = seed, 0

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Starts a battle; with a seed, in a new game.

        Raises:
            SimulatorError: the game cannot be started.
        """
        self.seed(seed)
        if not self._running:
            self._start()
        elif self._game._episode_steps > 0 and self._game._episode_count == 0:  # it would start a second game
            self._end()
            self._start()
        elif self._game._episode_steps > 0:
            try:
                self._game.reset()
            except (SC2Restart, *GAME_ERRORS) as error:
                self._fail("between two battles", error)
                self._start()
        self._in_battle = True
        return self.get_obs(), {}

    def _start(self) -> None:
        """Launch a game and go to its first battle. A game after the first one has another seed, so that it
        does not repeat the first one's battles."""
        flags.FLAGS["sc2_timeout"].value = self._launch_timeout
        for attempt in range(1, LAUNCH_ATTEMPTS + 1):
            seed = self._seed if self._launches == 0 else spawn(self._seed, "restart", self._launches)[-1]
            self._game = self._make(seed)
            self._running = True
            try:
                self._game.reset()
            except (SC2Restart, *GAME_ERRORS) as error:
                log.warning(
                    "StarCraft II did not start (attempt %d of %d): %s", attempt, LAUNCH_ATTEMPTS, error
                )
                self._end()
                last = error
            else:
                self._launches += 1
                return
        raise SimulatorError(
            f"StarCraft II did not start within {self._launch_timeout} s in {LAUNCH_ATTEMPTS} attempts "
            f"({last}): see what `python src/main.py check {self.name}` says"
        )

    def _fail(self, when: str, error: Exception) -> None:
        """Give up a game that failed."""
        self._restarts += 1
        log.warning("StarCraft II failed %s (%s) and is started again", when, error)
        self._end()

    def _end(self) -> None:
        if not self._running:
            return
        for key in COUNTS:
            self._past[key] += getattr(self._game, key)
        self._running = self._in_battle = False
        self._game.close()

    def step(self, actions: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Takes one action per agent.

        Raises:
            SC2Restart: the game failed.
        """
        game = self._battle()
        timeouts = game.timeouts
        try:
            reward, ended, info = game.step([int(action) for action in actions])
        except (SC2Restart, *GAME_ERRORS) as error:
            self._fail("in a battle", error)
            raise SC2Restart("StarCraft II failed in a battle") from error
        if ended:
            info["sc2_memory_mb"] = memory_mb(game._sc2_proc)
        limited = game.timeouts > timeouts
        return self.get_obs(), float(reward), ended and not limited, limited, info

    def _battle(self) -> Any:
        if not self._in_battle:
            raise RuntimeError("There is no battle yet: call reset first.")
        return self._game

    def get_obs(self) -> np.ndarray:
        return np.array(self._battle().get_obs(), dtype=np.float32)

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        return np.asarray(self._battle().get_obs_agent(agent_id), dtype=np.float32)

    def get_obs_size(self) -> int:
        return int(self._game.get_obs_size())

    def get_state(self) -> np.ndarray:
        return np.asarray(self._battle().get_state(), dtype=np.float32)

    def get_state_size(self) -> int:
        return int(self._game.get_state_size())

    def get_avail_actions(self) -> np.ndarray:
        return np.array(self._battle().get_avail_actions())

    def get_avail_agent_actions(self, agent_id: int) -> np.ndarray:
        return np.array(self._battle().get_avail_agent_actions(agent_id))

    def get_total_actions(self) -> int:
        return int(self._game.get_total_actions())

    def get_stats(self) -> dict[str, Any]:
        """The package's statistics over all games, and how many of them failed."""
        now = {key: self._past[key] + getattr(self._game, key) * self._running for key in COUNTS}
        won, played = now["battles_won"], now["battles_game"]
        return {
            **now,
            "battles_draw": now["timeouts"],
            "win_rate": won / played if played else 0.0,
            "restarts": self._restarts,
            "force_restarts": self._restarts,
        }

    def render(self) -> None:
        raise NotImplementedError(
            "SMAC's renderer does not work on Python 3.11 and later: save replays with "
            "env_args.save_replay=True and watch them in the game."
        )

    def save_replay(self) -> None:
        """Saves all that the game has played so far to ``replay_dir``."""
        self._battle().save_replay()

    def close(self) -> None:
        if self._in_battle and self._save_replay:
            try:
                self.save_replay()
            except GAME_ERRORS as error:
                log.warning("The replay could not be saved: %s", error)
        self._end()
