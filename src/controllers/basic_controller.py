"""The controller whose agents share one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.action_selectors import REGISTRY as action_REGISTRY
from components.episode_buffer import EpisodeBatch
from components.real_steps import RealSteps
from modules.agents import REGISTRY as agent_REGISTRY
from modules.agents.rnn_agent import RNNAgent
from utils.rl_utils import delayed, taken
from utils.typed_args import read

if TYPE_CHECKING:
    from modules.world_models.latents import CompactState
    from modules.world_models.world_model import LatentState

BLOCKED = torch.finfo(torch.float32).min / 2
"""Logit of an unavailable action. Its probability is exactly zero beside any logit a network can
produce, and unlike minus infinity it makes no NaN in entropies nor in padding, where nothing is available."""


@dataclass(frozen=True)
class BasicMACConfig:
    """What the controller needs of the run's arguments."""

    n_agents: int
    """Number of agents."""
    agent: str
    """Name of the agent network."""
    agent_output_type: str
    """`q` for Q-values, `pi_logits` for policies."""
    action_selector: str
    """Name of the action selector."""
    obs_agent_id: bool
    """Append a one-hot agent number to the observation."""
    obs_last_action: bool
    """Append the agent's previous action, one-hot, to the observation."""


class BasicMAC:
    """Observations in, actions out, one network for all agents; EPyMARL's controller interface.

    Beyond it: `reset_hidden` restarts single episodes of a batch, `unroll` runs the agents over a whole batch
    of episodes in one call, `agent_inputs` assembles the agents' inputs from plain tensors.
    """

    sees_obs = True
    """Whether `policy_inputs` looks at observations, so that a world model must decode them."""

    def __init__(self, scheme: dict[str, Any], groups: dict[str, int], args: Any) -> None:
        self.args = args
        self.config = read(BasicMACConfig, args)
        if self.config.agent_output_type not in ("q", "pi_logits"):
            raise ValueError(
                f"agent_output_type '{self.config.agent_output_type}' is neither q nor pi_logits"
            )
        self.n_agents = self.config.n_agents
        self.agent_output_type = self.config.agent_output_type
        self._build_agents(self._get_input_shape(scheme))
        self.action_selector = action_REGISTRY[self.config.action_selector](args)
        self.hidden_states: Any = None
        self.notes: dict[str, Tensor] = {}
        """What `noted_fields` names, of the decisions made last."""

    # acting

    @property
    def noted_fields(self) -> dict[str, dict[str, Any]]:
        """The fields of an episode, as a scheme has them, that the controller notes beside its actions.

        A policy notes how likely they were, since it may have changed when an episode is learnt from: slots
        go on with theirs while it is trained.
        """
        is_policy = self.agent_output_type == "pi_logits"
        if is_policy and type(self).select_actions is BasicMAC.select_actions:
            return {"log_probs": {"vshape": (1,), "group": "agents"}}
        return {}

    @torch.no_grad()
    def select_actions(
        self, ep_batch: EpisodeBatch, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Actions (len(bs), n_agents) at time index `t_ep`; `bs` picks the batch entries that still play."""
        outputs = self.forward(ep_batch, t_ep, test_mode=test_mode)[bs]
        avail_actions = ep_batch["avail_actions"][bs, t_ep]
        actions = self.action_selector.select_action(outputs, avail_actions, t_env, test_mode=test_mode)
        if self.noted_fields and not test_mode:
            probs = taken(outputs, actions)
            self.notes = {"log_probs": probs.clamp_min(torch.finfo(probs.dtype).tiny).log().unsqueeze(-1)}
        return actions

    def forward(self, ep_batch: EpisodeBatch, t: int, test_mode: bool = False) -> Tensor:
        """Q-values or probabilities (batch, n_agents, n_actions) at `t`; advances the recurrent state."""
        outputs, self.hidden_states = self.agent(self._build_inputs(ep_batch, t), self.hidden_states)
        outputs = outputs.view(ep_batch.batch_size, self.n_agents, -1)
        if self.agent_output_type == "q":
            return outputs
        return self.masked(outputs, ep_batch["avail_actions"][:, t]).softmax(dim=-1)

    def init_hidden(self, batch_size: int) -> None:
        """Starts `batch_size` episodes: the recurrent state is (batch_size, n_agents, hidden_dim)."""
        self.hidden_states = self.initial_hidden(batch_size)

    def initial_hidden(self, batch_size: int) -> Tensor:
        """Recurrent states before an episode's first step, (batch_size, n_agents, hidden_dim)."""
        hidden: Tensor = self.agent.init_hidden()
        return hidden.unsqueeze(0).expand(batch_size, self.n_agents, -1)

    def reset_hidden(self, mask: Tensor) -> None:
        """Restarts the recurrent state of the batch entries where `mask` (batch,) bool is set."""
        batch_size = mask.shape[0]
        fresh = self.initial_hidden(batch_size).reshape(batch_size, -1)
        kept = self.hidden_states.reshape(batch_size, -1)
        merged = torch.where(mask.to(kept.device).unsqueeze(1), fresh, kept)
        self.hidden_states = merged.view(self.hidden_states.shape)

    # learning

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        """Q-values, or masked logits of a policy, for all steps of `batch`: (batch, T, n_agents, n_actions).

        Behind an episode's end they mean nothing. Neither reads nor changes the state kept for acting.
        """
        if isinstance(self.agent, RNNAgent) and type(self.agent).unroll is RNNAgent.unroll:
            outputs = self._unroll_real_steps(batch)
        else:
            outputs, _ = self.run_agent(self.sequence_inputs(batch))
        return outputs if self.agent_output_type == "q" else self.masked(outputs, batch["avail_actions"])

    def _unroll_real_steps(self, batch: EpisodeBatch) -> Tensor:
        """Unmasked outputs, zeros behind an episode's end."""
        real = RealSteps(batch["filled"])
        inputs = self._all_inputs(batch, real.of).flatten(0, 1)
        hidden = self.initial_hidden(real.sizes[0]).flatten(0, 1)
        outputs, _ = self.agent.over_time(inputs, hidden, [size * self.n_agents for size in real.sizes])
        return real.padded(outputs.unflatten(0, (-1, self.n_agents)))

    def run_agent(self, inputs: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unmasked outputs and states of all steps from `inputs` (batch, T, n_agents, input)."""
        batch_size, length = inputs.shape[:2]
        steps = inputs.transpose(0, 1).reshape(length, batch_size * self.n_agents, -1)
        rows = steps.transpose(0, 1)  # a step follows the other in memory, as networks go through them
        hidden = self.initial_hidden(batch_size) if hidden is None else hidden
        if hasattr(self.agent, "unroll"):
            results = self.agent.unroll(rows, hidden.reshape(batch_size * self.n_agents, -1))
        else:
            results = _step_agent(self.agent, rows, hidden)
        outputs, hiddens = (x.view(batch_size, self.n_agents, length, -1).transpose(1, 2) for x in results)
        return outputs, hiddens

    def sequence_inputs(self, batch: EpisodeBatch) -> Tensor:
        """The agents' inputs at all steps of `batch`, (batch, T, n_agents, input)."""
        # Time first in memory, as `run_agent` goes through them.
        return self._all_inputs(batch, lambda field: field.transpose(0, 1)).transpose(0, 1)

    def _all_inputs(self, batch: EpisodeBatch, arranged: Callable[[Tensor], Tensor]) -> Tensor:
        """The agents' inputs from fields (batch, T, n_agents, ...) of `batch`, which are `arranged` first."""
        if type(self)._build_inputs is not BasicMAC._build_inputs:  # a derived controller's own inputs
            steps = [self._build_inputs(batch, t) for t in range(batch.max_seq_length)]
            return arranged(torch.stack(steps, dim=1).unflatten(0, (-1, self.n_agents)).transpose(1, 2))
        last_actions = None
        if self.config.obs_last_action:
            last_actions = arranged(delayed(batch["actions_onehot"]))
        return self.agent_inputs(arranged(batch["obs"]), last_actions)

    def agent_inputs(self, obs: Tensor, last_actions: Tensor | None = None) -> Tensor:
        """Inputs (..., n_agents, input) from observations (..., n_agents, obs_size).

        `last_actions` (..., n_agents, n_actions) one-hot, zeros at an episode's first step, is needed when
        `obs_last_action` is set.
        """
        parts = [obs]
        if self.config.obs_last_action:
            assert last_actions is not None, "obs_last_action is set: the previous actions are needed"
            parts.append(last_actions)
        if self.config.obs_agent_id:
            ids = torch.eye(self.n_agents, device=obs.device)
            parts.append(ids.expand(*obs.shape[:-1], self.n_agents))
        return torch.cat(parts, dim=-1)

    def policy_inputs(self, obs: Tensor, state: LatentState | CompactState) -> Tensor:
        """Inputs (..., n_agents, input) inside a world model that decodes `obs` (..., n_agents, obs_size).

        The model's own `state` (..., n_agents, ...) is nothing that this controller sees.
        """
        return self.agent_inputs(obs)

    @staticmethod
    def masked(logits: Tensor, avail_actions: Tensor) -> Tensor:
        """Logits with unavailable actions blocked: their probability is zero and they get no gradient.

        All or nothing of a logit is what interpolation with a weight of one or zero gives, number for number;
        a CPU takes ten times as long to choose by a mask.
        """
        return torch.lerp(logits.new_full((), BLOCKED), logits, avail_actions.to(logits.dtype))

    # parameters

    def parameters(self) -> Any:
        """The agents' parameters."""
        return self.agent.parameters()

    def load_state(self, other_mac: BasicMAC) -> None:
        """Takes over the network of another controller of the same shape."""
        self.agent.load_state_dict(other_mac.agent.state_dict())

    def cuda(self) -> None:
        """Moves the network to the GPU."""
        self.agent.cuda()

    def save_models(self, path: str) -> None:
        """Writes the network to `path`/agent.th."""
        torch.save(self.agent.state_dict(), f"{path}/agent.th")

    def load_models(self, path: str) -> None:
        """Reads the network from `path`/agent.th."""
        self.agent.load_state_dict(torch.load(f"{path}/agent.th", map_location="cpu"))

    # building, to be overridden by derived controllers as in EPyMARL

    def _build_agents(self, input_shape: int) -> None:
        self.agent: Any = agent_REGISTRY[self.config.agent](input_shape, self.args)

    def _build_inputs(self, batch: EpisodeBatch, t: int) -> Tensor:
        """The agents' inputs at `t`, (batch * n_agents, input)."""
        last_actions = None
        if self.config.obs_last_action:
            onehot = batch["actions_onehot"]
            last_actions = onehot[:, t - 1] if t > 0 else torch.zeros_like(onehot[:, t])
        return self.agent_inputs(batch["obs"][:, t], last_actions).flatten(0, 1)

    def _get_input_shape(self, scheme: dict[str, Any]) -> int:
        size = scheme["obs"]["vshape"]
        if self.config.obs_last_action:
            size += scheme["actions_onehot"]["vshape"][0]
        if self.config.obs_agent_id:
            size += self.n_agents
        return int(size)


def _step_agent(agent: Any, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """`agent.unroll` for an agent that knows single steps only; inputs (N, T, input).

    Its state has the shape that it has when acting, (batch, n_agents, hidden), or what it makes of that.
    """
    outputs, hiddens = [], []
    for step in inputs.unbind(dim=1):
        output, hidden = agent(step, hidden)
        outputs.append(output)
        hiddens.append(hidden.reshape(len(inputs), -1))
    return torch.stack(outputs, dim=1), torch.stack(hiddens, dim=1)


def sequence_outputs(mac: Any, batch: EpisodeBatch) -> Tensor:
    """Q-values, or logits of a policy, of any controller for all steps: (batch, T, n_agents, n_actions).

    A controller written for EPyMARL, or one derived from ours that changes `forward`, is stepped through time
    and its probabilities are turned into logits.
    """
    if can_unroll(mac):
        return mac.unroll(batch)
    mac.init_hidden(batch.batch_size)
    steps = torch.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], dim=1)
    if mac.agent_output_type == "q":
        return steps
    return BasicMAC.masked(steps.clamp_min(1e-10).log(), batch["avail_actions"])


def can_unroll(mac: Any) -> bool:
    """Whether the controller's `unroll` stands for its `forward`, and may be used in its place."""
    return isinstance(mac, BasicMAC) and type(mac).forward is BasicMAC.forward
