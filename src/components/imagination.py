"""Play inside a world model: the policy acts on what the model knows, the prior moves the world on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from components.pseudo_buffer import Imagined
from controllers.basic_controller import BasicMAC
from modules.world_models.latents import CompactState
from modules.world_models.world_model import LatentState, Sight, WorldModel
from utils.rl_utils import log_softmax, sample_categorical, softmax, taken


class Moment(NamedTuple):
    """N moments, real or imagined, at which the agents are to act."""

    state: LatentState  # (N, n, ...)
    obs: Tensor  # (N, n, obs_size), or of size 0 where the policy doesn't look at it
    avail_actions: Tensor  # (N, n, n_actions) bool
    actor_hidden: Tensor  # (N, n, hidden) what the policy remembers of the observations before


class Decision(NamedTuple):
    """What the policy does at N moments."""

    actions: Tensor  # (N, n) int64
    log_probs: Tensor  # (N, n)
    actor_hidden: Tensor  # (N, n, hidden) what it remembers afterwards


Advance = Callable[[Moment, Decision], LatentState]


@torch.no_grad()
def imagine(
    model: WorldModel, mac: BasicMAC, start: Moment, horizon: int, advance: Advance | None = None
) -> Imagined:
    """Roll the controller's policy out for ``horizon`` steps from every start at once.

    Step 0 acts on the real observation and mask; later steps on decoded observations, under availability
    masks sampled from the model. The dead observe nothing, as in reality.

    Args:
        model: the world model.
        mac: who acts.
        start: real moments, with what the policy remembers of the real observations before.
        horizon: steps.
        advance: chooses the state after a step; by default one sample of the prior.
    """
    moment = start
    steps: list[tuple[Tensor, ...]] = []
    seen = start.state.by_class(model.latents)
    visited = [(seen.h, seen.picked)]
    with model.unchanged():
        for step in range(1, horizon + 1):
            decision = act(mac, moment)
            state = advance(moment, decision) if advance else model.imagine(moment.state, decision.actions)
            steps.append((moment.obs, moment.avail_actions, decision.actions, decision.log_probs))
            seen = state.by_class(model.latents)
            visited.append((seen.h, seen.picked))
            if step < horizon:
                moment = imagined_moment(model, mac, state, seen, decision.actor_hidden)
    obs, avail, actions, log_probs = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
    h, picked = (torch.stack(part, dim=1) for part in zip(*visited, strict=True))
    # Also of the first states, which nothing led to: to leave them out before would copy all others.
    reward, continues = (x[:, 1:] for x in model.team_outcome(h))
    return Imagined(obs, avail, actions, log_probs, start.actor_hidden, h, picked, reward, continues)


def imagined_moment(
    model: WorldModel, mac: BasicMAC, state: LatentState, seen: Tensor | CompactState, actor_hidden: Tensor
) -> Moment:
    """Where the agents find themselves in an imagined state; ``seen`` is what heads read of it."""
    sight = model.sight(seen, mac.sees_obs)
    return Moment(state, *decode(sight, state.living), actor_hidden)


def act(mac: BasicMAC, moment: Moment) -> Decision:
    """Draw the policy's actions."""
    inputs = mac.policy_inputs(moment.obs, moment.state).unsqueeze(1)
    logits, hiddens = mac.run_agent(inputs, moment.actor_hidden)
    log_policy = masked_log_softmax(logits[:, 0], moment.avail_actions)
    actions = sample_categorical(softmax(log_policy))
    return Decision(actions, taken(log_policy, actions), hiddens[:, 0])


def decode(sight: Sight, living: Tensor) -> tuple[Tensor, Tensor]:
    """Sample what the agents see next, of whom some are ``living`` (N, n).

    Returns:
        Observations (N, n, obs_size), zero for the dead, and availability (N, n, n_actions) bool with at
        least one action each.
    """
    avail = torch.rand_like(sight.avail_logits) < sight.avail_logits.sigmoid()
    likeliest = sight.avail_logits.argmax(dim=-1, keepdim=True)
    avail = avail.scatter(-1, likeliest, True)
    return sight.obs * living.unsqueeze(-1), avail


def masked_log_softmax(logits: Tensor, avail_actions: Tensor) -> Tensor:
    """Log-probabilities (..., n_actions) in which an unavailable action has exactly no chance."""
    return log_softmax(BasicMAC.masked(logits.float(), avail_actions))
