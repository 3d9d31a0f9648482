"""The global-aware world model (GAWM, arXiv 2501.10116): a recurrent state-space model per agent, joined by
two Transformers over agents.

    embed        x_t^i = MLP(o_t^i)
    obs-fusion   g_t^{1:n} = Transformer_obs over agents of [x_t^i, h_t^i]
    posterior    z_t^i ~ Categorical(MLP(g_t^i))
    act-fusion   e_t^{1:n} = Transformer_act over agents of [z_t^i, a_t^i]
    recurrence   h_{t+1}^i = GRU(e_t^i, h_t^i)
    prior        z_t^i ~ Categorical(MLP(h_t^i))
    local heads  observation and available actions from (h_t^i, z_t^i)
    global heads team reward and continuation from h_t^i, by every agent

The dead have no latent: theirs is zero, in the posterior since they observe nothing, and in imagination since
who lives is drawn from h first. Deaths are rare and decisive, and many latents that are drawn each on their
own do not say together that something rare has happened. For the same reason the global heads look at h
alone, which knows all that was before and the joint action: what they say is the expectation of what comes of
it, and not a reading of one draw.

The scan over time holds only fusion, posterior and GRU; embeddings, priors and heads are computed for all
time steps at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kernels
from modules.world_models import scan
from modules.world_models.latents import CategoricalLatents, CompactState
from modules.world_models.layers import AgentFusion, latent_mlp, mlp
from modules.world_models.symlog import PlainNumber, TwoHot
from utils.compute import factor_dtype


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of a world model; the values come from ``config/algs/gawm*.yaml``."""

    wm_width: int  # hidden units of every layer, and of the deterministic state h
    wm_latent_groups: int  # categorical variables per agent
    wm_latent_classes: int  # values of each
    wm_uniform_mix: float  # share of a uniform distribution mixed into every latent
    wm_fusion_layers: int  # Transformer layers of each fusion
    wm_fusion_heads: int  # attention heads
    wm_head_layers: int  # hidden layers of the embedding and of every head
    wm_obs_fusion: bool  # false: the posterior sees the agent's own observation only (GAWM*, MAMBA)
    wm_regression: str = "scale_free"  # or "smooth_l1": how observations and rewards are learnt
    wm_action_head: bool = False  # the previous action is decoded, too (MAMBA)
    imagination_temperature: float = 1.0  # of the prior's draws: below 1 likely classes are drawn more often


class LatentState(NamedTuple):
    """What one agent's model knows at one time step; leading dimensions as the caller has them."""

    h: Tensor  # (..., n_agents, width) deterministic
    z: Tensor  # (..., n_agents, latent size) flat one-hot
    picked: Tensor | None = None  # (..., n_agents, groups) int16, their classes as far as they are known

    @property
    def features(self) -> Tensor:
        """(..., n_agents, width + latent size), rounded where autocast rounds what networks read."""
        return torch.cat(self.rounded()[:2], dim=-1)

    def rounded(self) -> "LatentState":
        """The same as networks read it, rounded where autocast rounds."""
        h, z = (part.to(factor_dtype(part)) for part in self[:2])
        return LatentState(h, z, self.picked)

    def each(self, change: Callable[[Tensor], Tensor]) -> "LatentState":
        """The same with all of its tensors changed in the same way."""
        picked = None if self.picked is None else change(self.picked)
        return LatentState(change(self.h), change(self.z), picked)

    def transposed(self) -> "LatentState":
        """The first two dimensions exchanged: ``observe`` gives states that have the time first in memory."""
        return self.each(lambda part: part.transpose(0, 1))

    def at(self, where: Any) -> "LatentState":
        """The states at an index into the leading dimensions."""
        return self.each(lambda part: part[where])

    def compact(self, latents: CategoricalLatents) -> CompactState:
        """The same for keeping, without gradients to the samples."""
        return self.by_class(latents)._replace(z=None)

    def by_class(self, latents: CategoricalLatents) -> CompactState:
        """The same with the classes of the samples beside them."""
        h, z, _ = self.rounded()
        return CompactState(h, self.classes(latents), latents, z)

    def classes(self, latents: CategoricalLatents) -> Tensor:
        """(..., n_agents, groups) int16, those of the samples, -1 if the agent is dead."""
        return latents.picked(self.z.detach()) if self.picked is None else self.picked

    @property
    def living(self) -> Tensor:
        """(..., n_agents) bool: the dead have no latent."""
        if self.picked is not None:
            return self.picked[..., 0] >= 0
        return self.z.amax(dim=-1) > 0  # an eighth of the time that any() takes


class Sight(NamedTuple):
    """What the local heads say that an agent sees, were it alive, and may do."""

    obs: Tensor  # (..., n_agents, obs_size), or of size 0 where it was not asked for
    avail_logits: Tensor  # (..., n_agents, n_actions) log-odds that an action may be taken


class Prediction(NamedTuple):
    """What every agent's heads say of one time step."""

    sight: Sight
    alive_logits: Tensor  # (..., n_agents) log-odds that the agent is alive
    reward_logits: Tensor  # (..., n_agents, numbers) as `reward_code` has the team reward of arriving here
    continue_logits: Tensor  # (..., n_agents) log-odds that the task goes on


def alive(obs: Tensor) -> Tensor:
    """(..., obs_size) -> (...) bool: a dead agent observes nothing but zeros."""
    return (obs != 0).any(dim=-1)


class WorldModel(nn.Module):
    """See the module's docstring.

    Args:
        n_agents, obs_size, n_actions: shapes of the environment.
        config: sizes.
    """

    def __init__(self, n_agents: int, obs_size: int, n_actions: int, config: WorldModelConfig) -> None:
        super().__init__()
        width, layers = config.wm_width, config.wm_head_layers
        self.n_agents, self.n_actions, self.width = n_agents, n_actions, width
        self.latents = CategoricalLatents(
            config.wm_latent_groups, config.wm_latent_classes, config.wm_uniform_mix
        )
        self.believed = self.latents._replace(uniform_mix=0.0)  # the uniform share is there for the KL alone
        self.temperature = config.imagination_temperature
        self.scale_free = config.wm_regression == "scale_free"
        self.reward_code: TwoHot | PlainNumber = TwoHot() if self.scale_free else PlainNumber()
        self.feature_size = width + self.latents.size
        self._prepared: scan.Ahead | None = None
        self.by_hand = True  # on a CPU the scan has its own kernels and gradients, unless it is compiled

        self.embed = mlp(obs_size, width, width, layers)
        fusion = (config.wm_fusion_layers, config.wm_fusion_heads)
        self.obs_fusion = AgentFusion(2 * width, width, n_agents, *fusion, alone=not config.wm_obs_fusion)
        self.posterior_head = mlp(width, width, self.latents.size, 1)
        self.act_fusion = AgentFusion(self.latents.size + n_actions, width, n_agents, *fusion)
        self.cell = nn.GRUCell(width, width)
        self.prior_head = mlp(width, width, self.latents.size, 1)

        self.obs_head = latent_mlp(width, self.latents, width, obs_size, layers)
        self.avail_head = latent_mlp(width, self.latents, width, n_actions, layers)
        self.alive_head = mlp(width, width, 1, layers)
        self.reward_head = mlp(width, width, self.reward_code.size, layers)
        self.continue_head = mlp(width, width, 1, layers)
        self.action_head = (
            latent_mlp(width, self.latents, width, n_actions, layers) if config.wm_action_head else None
        )
        nn.init.zeros_(self.reward_head[-1].weight)  # type: ignore[arg-type]  # start by predicting no reward
        nn.init.zeros_(self.reward_head[-1].bias)  # type: ignore[arg-type]

    def observe(self, obs: Tensor, actions: Tensor, is_first: Tensor) -> tuple[LatentState, Tensor]:
        """Run the posterior over real trajectories.

        Args:
            obs: (B, T, n, obs_size).
            actions: (B, T, n) int64, the action taken after each observation.
            is_first: (B, T) bool, where an episode begins; the first step of a window always begins anew.

        Returns:
            The latent states (B, T, n, ...) and the posterior probabilities (B, T, n, classes, groups), all
            of them with the time first in memory.
        """
        batch, time = is_first.shape
        # Time comes first in memory, so that one step looks the same whatever their number: what is compiled
        # depends on strides. Unbind cuts it off: its gradient is one stack, that of indexing fills all steps.
        by_time = obs.transpose(0, 1).contiguous()
        play = scan.Play(
            self.embed(by_time),
            alive(by_time).to(obs.dtype).unsqueeze(-1),
            actions.transpose(0, 1),
            (~is_first.T.contiguous()).to(obs.dtype)[:, :, None, None],
            torch.rand((time, batch, self.n_agents, self.latents.groups), device=obs.device),
        )
        if self.by_hand and kernels.serve(obs):
            h, z, posterior, picked = scan.scan(self, play)
            return LatentState(h, z, picked), posterior
        h, z, posterior = self._scan(play)
        return LatentState(h, z), posterior

    def _scan(self, play: scan.Play) -> tuple[Tensor, Tensor, Tensor]:
        """What ``scan`` does, in the plain way, that autograd and compilers can follow."""
        embedded, living, actions, goes_on, uniforms = play
        one_hot = F.one_hot(actions, self.n_actions).to(embedded.dtype)
        h = torch.zeros_like(embedded[0])
        hs, zs, posteriors = [], [], []
        for t, seen in enumerate(embedded.unbind()):
            h = h * goes_on[t]
            posterior = self._posterior(seen, h)
            z = self.latents.sample(posterior, uniforms[t]) * living[t]
            hs.append(h)
            zs.append(z)
            posteriors.append(posterior)
            if t + 1 < len(embedded):
                h = self._recur(h, z, one_hot[t])
        h, z, posterior = (torch.stack(x).transpose(0, 1) for x in (hs, zs, posteriors))
        return h, z, posterior

    def perceive(self, obs: Tensor, h: Tensor) -> LatentState:
        """One step of ``observe``: observations (N, n, obs_size) at deterministic states (N, n, width)."""
        posterior = self._posterior(self.embed(obs), h)
        uniforms = torch.rand((*posterior.shape[:-2], self.latents.groups), device=obs.device)
        return LatentState(h, self.latents.sample(posterior, uniforms) * alive(obs).unsqueeze(-1))

    def prior_logits(self, h: Tensor) -> Tensor:
        """(..., n, width) deterministic states -> (..., n, latent size) logits of the prior."""
        logits: Tensor = self.prior_head(h)
        return logits

    def imagine(self, state: LatentState, actions: Tensor) -> LatentState:
        """One step ahead under joint actions, the latent drawn from the prior.

        Args:
            state: latent states (N, n, ...).
            actions: (N, n) int64.
        """
        return self.foresee(self.advance(state, actions))

    def foresee(self, h: Tensor, living: Tensor | None = None) -> LatentState:
        """What may be seen at deterministic states (..., n, width): latents, drawn from the prior.

        Who is ``living`` (..., n) is drawn first where it isn't given. Latents say together what is seen but
        are drawn each on its own, so what is somewhat unlikely for each happens to some at every step. A
        temperature below 1 lets it happen less often.
        """
        living = self.draw_living(h) if living is None else living
        return LatentState(h, *self.believed.draw(self.prior_logits(h) / self.temperature, living))

    def draw_living(self, h: Tensor) -> Tensor:
        """Who may be alive (..., n) bool at deterministic states (..., n, width)."""
        return torch.rand(h.shape[:-1], device=h.device) < self._alive_logits(h).sigmoid()

    def advance(self, state: LatentState, actions: Tensor) -> Tensor:
        """The deterministic states (N, n, width) to which joint actions (N, n) int64 lead."""
        if self.by_hand and kernels.serve(state.h):
            ahead = self._prepared or scan.Ahead(self)
            return ahead.advance(state, actions)
        return self._recur(state.h, state.z, F.one_hot(actions, self.n_actions).to(state.h.dtype))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within, no weight may change: what ``advance`` makes of them is made once."""
        self._prepared = scan.Ahead(self)
        try:
            yield
        finally:
            self._prepared = None

    def predict(self, state: LatentState) -> Prediction:
        """Run every head on states (..., n, ...); float32 in any precision."""
        state = state.rounded()
        return Prediction(
            self.sight(self.as_read(state)),
            alive_logits=self._alive_logits(state.h),
            reward_logits=self.reward_head(state.h).float(),
            continue_logits=self._continue_logits(state.h),
        )

    def sight(self, seen: Tensor | CompactState, with_obs: bool = True) -> Sight:
        """Run the local heads alone on states (..., n, ...) as ``as_read`` gives them."""
        avail_logits = self.avail_head(seen).float()
        obs = self.obs_head(seen).float() if with_obs else avail_logits[..., :0]
        return Sight(obs, avail_logits)

    def as_read(self, state: LatentState) -> Tensor | CompactState:
        """What the heads that look at h and z are given."""
        return state.by_class(self.latents) if kernels.serve(state.h) else state.features

    def team_outcome(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What it brings the team to arrive at deterministic states (..., n, width).

        Returns:
            The expected reward (...) and the probability (...) that the task goes on, each the mean over what
            the agents predict.
        """
        rewards = self.reward_code.mean(self.reward_head(h).float())
        return rewards.mean(dim=-1), self._continue_logits(h).sigmoid().mean(dim=-1)

    def _alive_logits(self, h: Tensor) -> Tensor:
        return self.alive_head(h).squeeze(-1).float()

    def _continue_logits(self, h: Tensor) -> Tensor:
        return self.continue_head(h).squeeze(-1).float()

    def _posterior(self, embedded: Tensor, h: Tensor) -> Tensor:
        fused = self.obs_fusion(torch.cat([embedded, h], dim=-1))
        return self.latents.probs(self.posterior_head(fused))

    def _recur(self, h: Tensor, z: Tensor, action_one_hot: Tensor) -> Tensor:
        fused = self.act_fusion(torch.cat([z, action_one_hot], dim=-1))
        return self.cell(fused.flatten(0, 1), h.flatten(0, 1)).view_as(h)
