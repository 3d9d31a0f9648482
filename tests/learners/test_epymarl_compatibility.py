"""Components written the way EPyMARL's are train here.

They take a namespace of arguments, call `mac.forward` step by step, slice batches, and have none of our
additions. Each is registered, built and trained on its own among our parts, and all of them together.
"""

import copy
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import run
from checkpoints import CheckpointStore
from components.action_selectors import REGISTRY as SELECTORS
from components.standarize_stream import RunningMeanStd
from controllers import REGISTRY as CONTROLLERS
from envs import REGISTRY as ENVS
from envs.multiagentenv import MultiAgentEnv
from learners import REGISTRY as LEARNERS
from modules.agents import REGISTRY as AGENTS
from modules.critics import REGISTRY as CRITICS
from modules.mixers import REGISTRY as MIXERS
from training import Training
from utils.config import compose, parse_command_line


class MatchingEnv(MultiAgentEnv):
    """Two agents see a digit and are paid when both name it; agent 1 may not name the digit 2."""

    n_agents, n_actions, episode_limit = 2, 3, 4

    def __init__(self, seed=None, common_reward=True, reward_scalarisation="sum", **kwargs):
        self.rng = np.random.default_rng(seed)

    def reset(self, seed=None, options=None):
        self.t, self.digit = 0, self.rng.integers(2)
        return self.get_obs(), {}

    def step(self, actions):
        reward = float(all(int(action) == self.digit for action in actions))
        self.t, self.digit = self.t + 1, self.rng.integers(2)
        return self.get_obs(), reward, self.t >= self.episode_limit, False, {"matched": reward}

    def get_obs(self):
        return [np.eye(3, dtype=np.float32)[self.digit] for _ in range(self.n_agents)]

    def get_state(self):
        return np.eye(3, dtype=np.float32)[self.digit]

    def get_avail_actions(self):
        return [[1, 1, 1], [1, 1, 0]]

    def get_obs_size(self):
        return 3

    def get_state_size(self):
        return 3

    def get_total_actions(self):
        return self.n_actions

    def seed(self, seed=None):
        self.rng = np.random.default_rng(seed)

    def close(self):
        pass


class CellAgent(nn.Module):
    """One step at a time."""

    def __init__(self, input_shape, args):
        super().__init__()
        self.args = args
        self.encode = nn.Linear(input_shape, args.hidden_dim)
        self.cell = nn.GRUCell(args.hidden_dim, args.hidden_dim)
        self.head = nn.Linear(args.hidden_dim, args.n_actions)

    def init_hidden(self):
        return self.encode.weight.new(1, self.args.hidden_dim).zero_()

    def forward(self, inputs, hidden_state):
        h = self.cell(F.relu(self.encode(inputs)), hidden_state.reshape(-1, self.args.hidden_dim))
        return self.head(h), h


class StepMAC:
    """Knows neither `reset_hidden` nor `unroll` nor `state_dict`."""

    def __init__(self, scheme, groups, args):
        self.n_agents, self.args = args.n_agents, args
        self.agent_output_type = args.agent_output_type
        self.agent = AGENTS[args.agent](scheme["obs"]["vshape"] + self.n_agents, args)
        self.action_selector = SELECTORS[args.action_selector](args)
        self.hidden_states = None

    def select_actions(self, ep_batch, t_ep, t_env, bs=slice(None), test_mode=False):
        outs = self.forward(ep_batch, t_ep, test_mode=test_mode)
        return self.action_selector.select_action(
            outs[bs], ep_batch["avail_actions"][:, t_ep][bs], t_env, test_mode=test_mode
        )

    def forward(self, ep_batch, t, test_mode=False):
        ids = torch.eye(self.n_agents, device=ep_batch.device)
        ids = ids.unsqueeze(0).expand(ep_batch.batch_size, -1, -1)
        inputs = torch.cat([ep_batch["obs"][:, t], ids], dim=-1)
        outs, self.hidden_states = self.agent(inputs.reshape(-1, inputs.shape[-1]), self.hidden_states)
        outs = outs.view(ep_batch.batch_size, self.n_agents, -1)
        if self.agent_output_type == "pi_logits":
            outs[ep_batch["avail_actions"][:, t] == 0] = -1e10
            outs = F.softmax(outs, dim=-1)
        return outs

    def init_hidden(self, batch_size):
        hidden = self.agent.init_hidden().unsqueeze(0)
        self.hidden_states = hidden.expand(batch_size, self.n_agents, -1)

    def parameters(self):
        return self.agent.parameters()

    def load_state(self, other_mac):
        self.agent.load_state_dict(other_mac.agent.state_dict())

    def cuda(self):
        self.agent.cuda()

    def save_models(self, path):
        torch.save(self.agent.state_dict(), f"{path}/agent.th")

    def load_models(self, path):
        self.agent.load_state_dict(torch.load(f"{path}/agent.th"))


class WeightedMixer(nn.Module):
    """Built from the namespace alone; called with values (b, t, n) and states (b, t, s)."""

    def __init__(self, args):
        super().__init__()
        self.weights = nn.Linear(int(np.prod(args.state_shape)), args.n_agents)

    def forward(self, agent_qs, states):
        return (agent_qs * self.weights(states).exp()).sum(dim=2, keepdim=True)


class PlainCritic(nn.Module):
    """A state value that knows `critic(batch)` only."""

    def __init__(self, scheme, args):
        super().__init__()
        self.n_agents, self.output_type = args.n_agents, "v"
        self.fc = nn.Linear(scheme["state"]["vshape"], 1)

    def forward(self, batch, t=None):
        ts = slice(None) if t is None else slice(t, t + 1)
        return self.fc(batch["state"][:, ts]).unsqueeze(2).repeat(1, 1, self.n_agents, 1)


class StepQLearner:
    """One-step targets from forward calls in a loop over time, masks and running moments as in EPyMARL."""

    def __init__(self, mac, scheme, logger, args):
        self.args, self.mac, self.logger = args, mac, logger
        self.mixer = MIXERS[args.mixer](args)
        self.target_mac, self.target_mixer = copy.deepcopy(mac), copy.deepcopy(self.mixer)
        self.params = list(mac.parameters()) + list(self.mixer.parameters())
        self.optimiser = torch.optim.RMSprop(
            params=self.params, lr=args.lr, alpha=args.optim_alpha, eps=args.optim_eps
        )
        self.log_stats_t = -self.args.learner_log_interval - 1
        self.training_steps = 0
        device = "cuda" if args.use_cuda else "cpu"
        if self.args.standardise_rewards:
            self.rew_ms = RunningMeanStd(shape=(1,), device=device)

    def unroll(self, mac, batch):
        mac.init_hidden(batch.batch_size)
        return torch.stack([mac.forward(batch, t=t) for t in range(batch.max_seq_length)], dim=1)

    def train(self, batch, t_env, episode_num):
        rewards = batch["reward"][:, :-1]
        actions = batch["actions"][:, :-1]
        terminated = batch["terminated"][:, :-1].float()
        mask = batch["filled"][:, :-1].float()
        mask[:, 1:] = mask[:, 1:] * (1 - terminated[:, :-1])
        if self.args.standardise_rewards:
            self.rew_ms.update(rewards)
            rewards = (rewards - self.rew_ms.mean) / torch.sqrt(self.rew_ms.var)
        qs = self.unroll(self.mac, batch)
        taken = torch.gather(qs[:, :-1], dim=3, index=actions).squeeze(3)
        target_qs = self.unroll(self.target_mac, batch)[:, 1:]
        target_qs[batch["avail_actions"][:, 1:] == 0] = -9999999
        values = self.mixer(taken, batch["state"][:, :-1])
        next_values = self.target_mixer(target_qs.max(dim=3)[0], batch["state"][:, 1:])
        targets = rewards + self.args.gamma * (1 - terminated) * next_values
        loss = (((values - targets.detach()) * mask) ** 2).sum() / mask.sum()
        self.optimiser.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.params, self.args.grad_norm_clip)
        self.optimiser.step()
        self.training_steps += 1
        if self.training_steps % self.args.target_update_interval_or_tau == 0:
            self.target_mac.load_state(self.mac)
            self.target_mixer.load_state_dict(self.mixer.state_dict())
        if t_env - self.log_stats_t >= self.args.learner_log_interval:
            self.logger.log_stat("loss", loss.item(), t_env)
            self.logger.log_stat("grad_norm", grad_norm.item(), t_env)
            self.log_stats_t = t_env

    def cuda(self):
        self.mac.cuda()

    def save_models(self, path):
        self.mac.save_models(path)

    def load_models(self, path):
        self.mac.load_models(path)


class StepPolicyLearner:
    """Policy gradient on returns to go, with probabilities from forward calls in a loop over time."""

    def __init__(self, mac, scheme, logger, args):
        self.args, self.mac, self.logger = args, mac, logger
        self.params = list(mac.parameters())
        self.optimiser = torch.optim.Adam(self.params, lr=args.lr)

    def train(self, batch, t_env, episode_num):
        mask = batch["filled"][:, :-1].float().repeat(1, 1, self.args.n_agents)
        self.mac.init_hidden(batch.batch_size)
        pi = torch.stack([self.mac.forward(batch, t=t) for t in range(batch.max_seq_length - 1)], dim=1)
        pi[mask == 0] = 1.0
        log_pi = torch.log(torch.gather(pi, dim=3, index=batch["actions"][:, :-1]).squeeze(3) + 1e-10)
        advantages = batch["reward"][:, :-1] - batch["reward"][:, :-1].mean()
        entropy = -(pi * torch.log(pi + 1e-10)).sum(dim=3)  # without it both soon name one digit only
        loss = -((log_pi * advantages + 0.1 * entropy) * mask).sum() / mask.sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.logger.log_stat("loss", loss.item(), t_env)

    def cuda(self):
        self.mac.cuda()

    def save_models(self, path):
        self.mac.save_models(path)

    def load_models(self, path):
        self.mac.load_models(path)


FOREIGN = [
    (ENVS, "matching", MatchingEnv),
    (AGENTS, "cell", CellAgent),
    (CONTROLLERS, "step_mac", StepMAC),
    (MIXERS, "weighted", WeightedMixer),
    (CRITICS, "plain_critic", PlainCritic),
    (LEARNERS, "step_q", StepQLearner),
    (LEARNERS, "step_policy", StepPolicyLearner),
]


def make_args(config: str, **overrides: Any) -> SimpleNamespace:
    """One of our algorithms' configurations, in an environment of this test's, and `overrides`."""
    values = compose(parse_command_line([f"--config={config}", "--env-config=smax"]))
    values |= {
        "env": "matching", "env_args": {}, "runner": "episode", "seed": 0, "device": "cpu", "use_cuda": False,
        "batch_size": 16, "steps_per_update": {"mappo": 64, "qmix": 8}[config], "epsilon_anneal_time": 500,
        "lr": 0.01, "critic_lr": 0.01, "test_nepisode": 20, "unique_token": "test", "gamma": 0.0,
        "hidden_dim": 16, "epochs": 4,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **overrides})


ALONE = [
    ("qmix", {"agent": "cell"}),
    ("qmix", {"mac": "step_mac"}),
    ("qmix", {"mixer": "weighted"}),
    ("qmix", {"learner": "step_q"}),
    ("mappo", {"agent": "cell"}),
    ("mappo", {"mac": "step_mac"}),
    ("mappo", {"learner": "step_policy"}),
]
TOGETHER = [
    ("qmix", {"agent": "cell", "mac": "step_mac", "mixer": "weighted", "learner": "step_q"}),
    ("mappo", {"critic_type": "plain_critic"}),
    ("mappo", {"agent": "cell", "mac": "step_mac", "learner": "step_policy"}),
]


@pytest.mark.parametrize(
    ("config", "overrides"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in ALONE), *TOGETHER],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_components_written_for_epymarl_train(monkeypatch, logger, tmp_path, config, overrides):
    for registry, name, component in FOREIGN:
        monkeypatch.setitem(registry, name, component)
    args = make_args(config, **overrides)
    run.seed_global_generators(0)
    logger.console_logger = logging.getLogger("test")
    logger.last = logger.stats.get
    runner = run.RUNNERS[args.runner](args=args, logger=logger)
    parts = run.build(args, logger, runner)
    before = copy.deepcopy(parts.mac.agent.state_dict())
    training = Training(parts, args, logger, SimpleNamespace(), CheckpointStore(tmp_path), None)
    while runner.t_env < 1600:
        training._advance()
    runner.run(test_mode=True)
    runner.close_env()
    after = parts.mac.agent.state_dict()
    assert any(not torch.equal(after[key], before[key]) for key in after)
    assert logger.stats["test_return_mean"] > 3.0  # of 4; drawing actions at random gives 0.67
    parts.learner.save_models(str(tmp_path))
    parts.learner.load_models(str(tmp_path))
