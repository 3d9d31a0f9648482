"""A toy environment whose every observation says where it comes from, and controllers without networks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import envs
from components.transforms import OneHot
from envs.batched_env import BatchedEnv, EnvInfo, idle
from envs.episodes import Episodes, info_of
from envs.multiagentenv import MultiAgentEnv
from envs.single_env import stack_steps, stack_views
from runners import REGISTRY

N_AGENTS, N_ACTIONS, LIMIT = 2, 4, 9


class ToyEnv(MultiAgentEnv):
    """Episodes of random length, some cut by the time limit. Observation: (slot, episode, step, agent)."""

    n_agents, episode_limit = N_AGENTS, LIMIT

    def __init__(self, seed, common_reward=True, reward_scalarisation="sum"):
        self.common_reward = common_reward
        self.start(seed)

    def start(self, seed):
        self.origin, self.episode = seed % 2**23, -1  # exact in float32, hardly ever the same for two slots
        self.rng = np.random.default_rng(seed)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.start(seed)
        self.episode += 1
        self.t, self.length = 0, int(self.rng.integers(1, LIMIT + 4))
        return self.get_obs(), {}

    def step(self, actions):
        self.t += 1
        terminated = self.t == self.length
        reward = np.array([1000 * self.t + 10 * i + a for i, a in enumerate(actions)], dtype=np.float32)
        info = {"battle_won": terminated, "note": "no number"}
        if self.common_reward:
            reward = float(reward.sum())
        return self.get_obs(), reward, terminated, self.t == LIMIT and not terminated, info

    def get_obs(self):
        return [[self.origin, self.episode, self.t, i] for i in range(N_AGENTS)]

    def get_state(self):
        return [self.origin, self.episode, self.t]

    def get_avail_actions(self):
        return [[1] * N_ACTIONS] * N_AGENTS

    def get_env_info(self):
        return {
            "n_agents": N_AGENTS, "n_actions": N_ACTIONS, "obs_shape": 4, "state_shape": 3,
            "episode_limit": LIMIT,
        }  # fmt: skip


class ToyBatch(BatchedEnv):
    """Toy environments one after the other."""

    def __init__(self, seeds, **kwargs):  # the arguments of ToyEnv
        self.slots = [Episodes(ToyEnv(seed, **kwargs), seed) for seed in seeds]
        self.n_envs, self.info = len(seeds), EnvInfo(**info_of(self.slots[0].env))
        self.steps, self.last = 0, [None] * len(seeds)

    def reset(self):
        return stack_views([slot.reset() for slot in self.slots])

    def step(self, actions, active=None, meanwhile=idle):
        meanwhile()
        active = torch.ones(self.n_envs, dtype=torch.bool) if active is None else active
        for i in active.nonzero().flatten().tolist():
            self.last[i] = self.slots[i].step(actions[i].numpy())
            self.steps += 1
        return stack_steps(self.last)


class ToyMac:
    """Acts on the observation, the last action and a recurrent counter, so as expected only if the runner
    handles all three rightly. ``noise`` adds random choices."""

    def __init__(self, noise=False):
        self.noise = noise

    def init_hidden(self, batch_size):
        self.hidden_states = torch.zeros(batch_size, N_AGENTS, 1)

    def select_actions(self, batch, t_ep, t_env, bs=slice(None), test_mode=False):
        last = (
            batch["actions_onehot"][:, t_ep - 1] if t_ep else torch.zeros_like(batch["actions_onehot"][:, 0])
        )
        number = batch["obs"][:, t_ep].sum(-1) + 2 * (last * torch.arange(1, N_ACTIONS + 1)).sum(-1)
        number = number.long() + 3 * self.hidden_states.squeeze(-1).long()
        self.hidden_states = self.hidden_states + 1
        if self.noise:
            number = number + torch.randint(N_ACTIONS, number.shape)
        return (number % N_ACTIONS)[bs]


class RestartableMac(ToyMac):
    """A controller of ours."""

    def reset_hidden(self, mask):
        self.hidden_states = self.hidden_states.masked_fill(mask.view(-1, 1, 1), 0)


class EpymarlMac(ToyMac):
    """A controller as EPyMARL's: slots cannot be restarted. Notes how it was called."""

    def __init__(self, noise=False):
        super().__init__(noise)
        self.calls = []  # shared with the shallow copy that the runner asks

    def init_hidden(self, batch_size):
        super().init_hidden(batch_size)
        self.calls.clear()

    def select_actions(self, batch, t_ep, t_env, bs=slice(None), test_mode=False):
        self.calls.append((t_ep, list(bs), batch["filled"].sum(1).flatten().tolist()))
        return super().select_actions(batch, t_ep, t_env, bs, test_mode)


def expected_actions(obs):
    """The actions of both controllers in an episode with these observations, (T, n_agents, 4)."""
    actions = []
    for t, seen in enumerate(obs.sum(-1).tolist()):
        last = [0] * N_AGENTS if t == 0 else [a + 1 for a in actions[-1]]
        actions.append([int(s + 2 * b + 3 * t) % N_ACTIONS for s, b in zip(seen, last, strict=True)])
    return actions


class Log:
    """Keeps what is logged."""

    def __init__(self):
        self.stats = []

    def log_stat(self, key, value, t):
        self.stats.append((key, value, t))

    def last(self, key):
        return [value for k, value, _ in self.stats if k == key][-1]


@pytest.fixture
def make_runner(monkeypatch):
    """make_runner(mac, runner=..., batch_size_run=..., **args) -> a runner, set up, closed at the end."""
    monkeypatch.setitem(envs.REGISTRY, "toy", ToyEnv)
    monkeypatch.setitem(envs.BATCHED_REGISTRY, "toy", ToyBatch)
    made = []

    def make(mac, runner="vector", **changes):
        args = {
            "env": "toy", "env_args": {}, "batch_size_run": 3, "test_nepisode": 5, "runner_log_interval": 1,
            "worker_timeout": 60, "worker_max_restarts": 3,
            "common_reward": True, "reward_scalarisation": "sum", "seed": 1, "device": "cpu",
        }  # fmt: skip
        args = SimpleNamespace(**{**args, **changes}, runner=runner)
        instance = REGISTRY[runner](args=args, logger=Log())
        made.append(instance)
        info = instance.get_env_info()
        scheme = {
            "state": {"vshape": info["state_shape"]},
            "obs": {"vshape": info["obs_shape"], "group": "agents"},
            "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
            "avail_actions": {"vshape": (info["n_actions"],), "group": "agents", "dtype": torch.int},
            "reward": {"vshape": (1,) if args.common_reward else (info["n_agents"],)},
            "terminated": {"vshape": (1,), "dtype": torch.uint8},
        }
        scheme |= getattr(mac, "noted_fields", {})
        preprocess = {"actions": ("actions_onehot", [OneHot(info["n_actions"])])}
        instance.setup(scheme, {"agents": info["n_agents"]}, preprocess, mac)
        return instance

    yield make
    for instance in made:
        instance.close_env()


@pytest.fixture
def toy():
    """The parts of this module, for tests to use."""
    return SimpleNamespace(
        RestartableMac=RestartableMac, EpymarlMac=EpymarlMac, expected_actions=expected_actions, LIMIT=LIMIT,
        Env=ToyEnv,
    )  # fmt: skip
