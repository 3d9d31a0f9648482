"""GAWM (arXiv 2501.10116): a global-aware world model learnt from real play, a policy learnt inside it.

Its relatives MAMBA and MAG are the same learner under other settings: a posterior that sees one agent's
observation, a controller that acts on the model's state, a choice among imagined candidates.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.candidates import Candidates, CandidatesConfig
from components.episode_buffer import EpisodeBatch
from components.imagination import Moment, imagine
from components.moving_average import MovingAverage
from components.optimisers import MuonAdam, give_gradients, gradients_of
from components.pseudo_buffer import Imagined, ImaginedSizes, PseudoBuffer
from components.running_means import RunningMeans
from components.trajectory_buffer import Trajectories, TrajectoryBuffer
from controllers.basic_controller import BasicMAC
from controllers.latent_controller import LatentMAC
from learners.imagined_ppo import ImaginedPPO, ImaginedPPOConfig, RealPlay
from modules.world_models.losses import WorldModelLoss, WorldModelLossConfig, world_model_loss
from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig
from utils.clocks import Every, Ratio
from utils.compute import Compiler, ComputeConfig, warn_of_no_effect
from utils.guards import check_all_finite
from utils.rl_utils import delayed
from utils.seeding import spawn
from utils.typed_args import read


@dataclass(frozen=True)
class GAWMConfig:
    """What the learner itself decides: how much real play is kept, and how often what is updated."""

    n_agents: int
    n_actions: int
    obs_shape: int  # length of one agent's observation
    seed: int
    device: str
    learner_log_interval: int  # environment steps between logged statistics
    batch_size_run: int  # episodes handed over together
    episode_limit: int  # most steps of one
    replay_capacity: int  # records of real play kept (B_r)
    reward_trend_sigma: float  # Gaussian over time, in steps; 0 learns the raw reward
    reward_trend_border: str  # border rule of the smoothing
    pseudo_rounds: int  # imagination rounds kept (B_p)
    start_training_steps: int  # environment steps before the first update
    wm_steps_per_update: float  # environment steps per world-model update
    wm_share_per_update: float  # but no less than this share of all steps so far
    wm_batch_size: int  # windows per world-model update
    wm_sequence_length: int  # records per window
    wm_lr: float  # Adam step size
    wm_muon_lr: float  # Muon step size
    optim_eps: float  # Adam's epsilon
    wm_grad_norm_clip: float
    wm_averaging: float  # decay of the moving average of its weights, which imagines
    policy_steps_per_round: float  # environment steps per imagination round and PPO phase
    policy_share_per_round: float  # but no less than this share of all steps so far
    imagination_episodes: int  # real episodes whose moments imagination may start from
    imagination_newest: int  # records of the newest real play they are drawn from
    imagination_starts: int  # rollouts per round
    imagination_horizon: int  # steps per rollout


class GAWMLearner:
    """Owns the world model, both buffers and the behaviour; EPyMARL's learner interface.

    ``train`` is given fresh episodes. It stores them in B_r and then makes the updates that have become due
    by environment steps: first the world model's, then rounds of imagination into B_p, each followed by PPO.

    ``student`` is the model that gradients move. What imagines, and for MAMBA acts, is ``world_model``, the
    moving average of its weights: large steps learn fast but leave every single model somewhat off, each in
    another direction.
    """

    def __init__(self, mac: BasicMAC, scheme: dict[str, Any], logger: Any, args: Any) -> None:
        self.config = config = read(GAWMConfig, args)
        longest = config.batch_size_run * (config.episode_limit + 1)
        if longest > config.replay_capacity:
            raise ValueError(
                f"replay_capacity={config.replay_capacity} can't hold {config.batch_size_run} episodes of "
                f"{config.episode_limit} steps: it must be {longest} at least."
            )
        self.loss_config = read(WorldModelLossConfig, args)
        self.mac, self.logger = mac, logger
        self.compute = read(ComputeConfig, args)
        warn_of_no_effect(self.compute)
        self.world_model = (
            mac.world_model
            if isinstance(mac, LatentMAC)
            else WorldModel(config.n_agents, config.obs_shape, config.n_actions, read(WorldModelConfig, args))
        )
        self.student = copy.deepcopy(self.world_model)
        self.weights = list(self.student.parameters())
        self.averaging = MovingAverage(self.world_model, self.student, config.wm_averaging)
        self.wm_optimiser = MuonAdam(
            self.student,
            config.wm_lr,
            config.wm_muon_lr,
            config.optim_eps,
            self.student.embed[0],
            self.compute.rounds,
        )
        candidates = read(CandidatesConfig, args)
        self.candidates = Candidates(self.world_model, mac, candidates) if candidates.candidates > 1 else None
        self.behaviour = ImaginedPPO(mac, self.world_model, read(ImaginedPPOConfig, args), self.compute)
        if self.compute.compile:
            compiler = Compiler()
            self.student.by_hand = self.world_model.by_hand = False
            compiler.compile_methods(self.student, "_posterior", "_recur", "predict")
            imagining = ("_posterior", "_recur", "_alive_logits", "prior_logits", "sight")
            compiler.compile_methods(self.world_model, *imagining)
        self.differentiate = self.compute.graphed(self._differentiate)
        self.imagine = self.compute.graphed(self._imagine)
        self.trajectories = TrajectoryBuffer(
            config.replay_capacity,
            config.n_agents,
            config.obs_shape,
            config.n_actions,
            config.reward_trend_sigma,
            config.reward_trend_border,
            spawn(config.seed, "learner", 1)[0],
            config.device,
        )
        self.pseudo = PseudoBuffer(config.pseudo_rounds, self._imagined_sizes(), config.device)
        self.buffers = {"real play": self.trajectories, "imagined play": self.pseudo}
        self.wm_clock = Ratio(config.wm_steps_per_update, config.wm_share_per_update)
        self.policy_clock = Ratio(config.policy_steps_per_round, config.policy_share_per_round)
        self.log_clock = Every(config.learner_log_interval)
        self.statistics = RunningMeans()

    def _imagined_sizes(self) -> ImaginedSizes:
        config = self.config
        return ImaginedSizes(
            trajectories=config.imagination_starts,
            horizon=config.imagination_horizon,
            n_agents=config.n_agents,
            obs_size=config.obs_shape if self.mac.sees_obs else 0,
            n_actions=config.n_actions,
            hidden_size=self.mac.initial_hidden(1).shape[-1],
            width=self.world_model.width,
            groups=self.world_model.latents.groups,
            h_dtype=self.compute.dtype,
        )

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        """Store fresh episodes and make all updates that are due at ``t_env``."""
        self.store(batch)
        for _ in self.updates_due(t_env):
            pass

    def store(self, batch: EpisodeBatch) -> None:
        """Keep fresh episodes to learn from."""
        self.trajectories.insert_episode_batch(batch)

    def updates_due(self, t_env: int) -> Iterator[None]:
        """Make the updates that are due at ``t_env`` one by one, each when it is asked for.

        Those that nobody asked for remain due, also of a learner that was saved and restored in between.
        """
        enough = len(self.trajectories) >= self.config.wm_sequence_length
        if t_env < self.config.start_training_steps or not enough:
            return
        for _ in self.wm_clock.each_due(t_env):
            self.statistics.add(self._train_world_model(t_env))
            yield
        for _ in self.policy_clock.each_due(t_env):
            self.statistics.add(self._train_policy(t_env))
            yield
        if self.statistics and self.log_clock.due(t_env):
            self._log(t_env)

    def _train_world_model(self, t_env: int) -> dict[str, Tensor]:
        data = self.trajectories.sample_windows(self.config.wm_batch_size, self.config.wm_sequence_length)
        loss, gradients = self.differentiate(data)
        norm = give_gradients(self.weights, gradients, self.config.wm_grad_norm_clip)
        statistics = {**loss.terms, "wm_grad_norm": norm}
        if self.candidates is not None:  # before the model moves on from what it had these losses with
            statistics |= self.candidates.train(self.student, loss, data.is_first)
        check_all_finite(statistics, t_env)
        self.wm_optimiser.step()
        self.averaging.update()
        return statistics

    def _differentiate(self, data: Trajectories) -> tuple[WorldModelLoss, list[Tensor | None]]:
        """The loss of windows, and its gradients to all weights, None where it doesn't depend on one."""
        with self.compute.autocast():
            loss = world_model_loss(self.student, data, self.loss_config)
        return loss.detached(), gradients_of(loss.total, self.weights)

    def _train_policy(self, t_env: int) -> dict[str, Tensor]:
        start, real = self._draw_reality()
        self.pseudo.insert(self.imagine(start))
        statistics = self.behaviour.update(self.pseudo.all(), real, t_env)
        check_all_finite(statistics, t_env)
        return statistics

    def _imagine(self, start: Moment) -> Imagined:
        advance = None if self.candidates is None else self.candidates.advance
        with self.compute.autocast():
            return imagine(self.world_model, self.mac, start, self.config.imagination_horizon, advance)

    @torch.no_grad()
    def _draw_reality(self) -> tuple[Moment, RealPlay]:
        """Draw real episodes as the posterior sees them, and moments of theirs to start imagining from.

        Posterior and policy are run from an episode's first step, so neither starts from a truncated history.
        The final observation of an episode is no start: nothing is done after it. Episodes are drawn by their
        length, so a moment of a long one is the likelier: where battles are won by enduring, that pays.
        """
        data, mask = self.trajectories.sample_episodes(
            self.config.imagination_episodes, newest=self.config.imagination_newest
        )
        with self.compute.autocast():
            state, _ = self.world_model.observe(data.obs, data.actions, data.is_first)
            by_time = state.transposed().compact(self.world_model.latents)
        moments = (mask & ~data.is_last).nonzero()
        chosen = torch.randint(len(moments), (self.config.imagination_starts,)).to(moments.device)
        at = tuple(moments[chosen].T)
        seen = data.obs if self.mac.sees_obs else data.obs[..., :0]
        start = Moment(
            state.at(at),
            seen[at],
            data.avail_actions[at],
            self._actor_memory(data, state)[at],
        )
        return start, RealPlay(by_time.transposed(), data.trend, data.continues, mask)

    def _actor_memory(self, data: Trajectories, state: LatentState) -> Tensor:
        """The policy's recurrent state before each observation, (B, T, n, hidden)."""
        _, hiddens = self.mac.run_agent(self.mac.policy_inputs(data.obs, state))
        return delayed(hiddens, self.mac.initial_hidden(len(hiddens)))

    def _log(self, t_env: int) -> None:
        for key, value in self.statistics.take().items():
            self.logger.log_stat(key, value, t_env)
        self.logger.log_stat("wm_updates", self.wm_clock.updates, t_env)
        self.logger.log_stat("policy_rounds", self.policy_clock.updates, t_env)

    def cuda(self) -> None:
        """Move every network to the GPU."""
        self.mac.cuda()
        self.world_model.cuda()
        self.student.cuda()
        self.behaviour.critic.cuda()
        if self.candidates is not None:
            self.candidates.predictor.cuda()

    def _parts(self) -> dict[str, Any]:
        chosen_among = {} if self.candidates is None else {"candidates": self.candidates}
        return {
            **chosen_among,
            "world_model": self.world_model,
            "student": self.student,
            "averaging": self.averaging,
            "wm_optimiser": self.wm_optimiser,
            "trajectories": self.trajectories,
            "pseudo": self.pseudo,
            "wm_clock": self.wm_clock,
            "policy_clock": self.policy_clock,
            "log_clock": self.log_clock,
            "statistics": self.statistics,
            "behaviour": self.behaviour,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the learner's future depends on, but for torch's global generator."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def save_models(self, path: str) -> None:
        """Write the networks; the policy's own file is all that acting needs."""
        self.mac.save_models(path)
        torch.save(self.world_model.state_dict(), f"{path}/world_model.th")
        torch.save(self.behaviour.critic.state_dict(), f"{path}/critic.th")

    def load_models(self, path: str) -> None:
        """Read what ``save_models`` wrote."""
        self.mac.load_models(path)
        self.world_model.load_state_dict(torch.load(f"{path}/world_model.th", map_location="cpu"))
        self.student.load_state_dict(self.world_model.state_dict())
        self.behaviour.critic.load_state_dict(torch.load(f"{path}/critic.th", map_location="cpu"))
