"""Small episodes and arguments for learners."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.transforms import OneHot

N_AGENTS, N_ACTIONS, OBS, STATE = 3, 5, 7, 11


class RecordingLogger:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.stats: dict[str, float] = {}

    def log_stat(self, key: str, value: float, t: int) -> None:
        self.stats[key] = float(value)


@pytest.fixture
def logger() -> RecordingLogger:
    return RecordingLogger()


@pytest.fixture
def make_args():
    """Arguments of both learners; keywords override."""

    def make(**overrides: Any) -> SimpleNamespace:
        defaults = {
            "n_agents": N_AGENTS, "n_actions": N_ACTIONS, "obs_shape": OBS, "state_shape": STATE,
            "episode_limit": 9, "device": "cpu", "use_cuda": False, "agent": "rnn", "mac": "basic_mac",
            "hidden_dim": 16, "use_rnn": True, "obs_agent_id": True, "obs_last_action": True,
            "obs_individual_obs": False, "agent_output_type": "q", "action_selector": "epsilon_greedy",
            "epsilon_start": 1.0, "epsilon_finish": 0.05, "epsilon_anneal_time": 100,
            "evaluation_epsilon": 0.0, "test_greedy": True, "common_reward": True, "mixer": "qmix",
            "mixing_embed_dim": 8, "hypernet_layers": 2, "hypernet_embed": 8, "lr": 1e-3, "critic_lr": 1e-3,
            "optim_eps": 1e-5, "grad_norm_clip": 10.0, "gamma": 0.9, "td_lambda": 0.6, "gae_lambda": 0.8,
            "double_q": True, "target_update_interval_or_tau": 2.0, "standardise_rewards": False,
            "standardise_returns": False, "learner_log_interval": 1, "critic_type": "cv_critic",
            "epochs": 2, "minibatches": 2, "chunk_length": 4, "eps_clip": 0.2, "entropy_coef": 0.01,
            "normalise_values": True,
        }  # fmt: skip
        return SimpleNamespace(**{**defaults, **overrides})

    return make


@pytest.fixture
def make_batch():
    """Random episodes of the given lengths; those named in `cut_off` end at a time limit, not a terminal.
    `more` are fields that the scheme has besides."""

    def make(
        lengths: list[int],
        size: int | None = None,
        cut_off: tuple[int, ...] = (),
        rewards: int = 1,
        more: dict[str, Any] | None = None,
    ) -> EpisodeBatch:
        generator = torch.Generator().manual_seed(0)
        scheme = {
            "state": {"vshape": STATE},
            "obs": {"vshape": OBS, "group": "agents"},
            "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
            "avail_actions": {"vshape": (N_ACTIONS,), "group": "agents", "dtype": torch.int},
            "reward": {"vshape": (rewards,)},
            "terminated": {"vshape": (1,), "dtype": torch.uint8},
            **(more or {}),
        }
        preprocess = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}
        size = size or max(lengths) + 1
        batch = EpisodeBatch(scheme, {"agents": N_AGENTS}, len(lengths), size, preprocess=preprocess)
        for i, length in enumerate(lengths):
            for t in range(length + 1):
                avail = (torch.rand(N_AGENTS, N_ACTIONS, generator=generator) < 0.7).int()
                avail[:, 0] = 1
                actions = torch.multinomial(avail.float(), 1, generator=generator)
                step: dict[str, Any] = {
                    "state": torch.randn(1, STATE, generator=generator),
                    "obs": torch.randn(1, N_AGENTS, OBS, generator=generator),
                    "avail_actions": avail.unsqueeze(0),
                }
                if t < length:
                    step["reward"] = torch.randn(1, rewards, generator=generator)
                    step["actions"] = actions.unsqueeze(0)
                    step["terminated"] = [[int(t == length - 1 and i not in cut_off)]]
                batch.update(step, bs=i, ts=t)
        return batch

    return make
