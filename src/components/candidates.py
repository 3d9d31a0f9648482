"""MAG: of several samples of what may come next, imagination takes the one the model errs least in."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.imagination import Decision, Moment, act, imagined_moment
from components.optimisers import Adam
from controllers.basic_controller import BasicMAC
from modules.world_models.error_predictor import ErrorPredictor
from modules.world_models.losses import WorldModelLoss, has_past
from modules.world_models.world_model import LatentState, WorldModel
from utils.rl_utils import masked_mean


@dataclass(frozen=True)
class CandidatesConfig:
    """How candidates are made and judged."""

    candidates: int  # samples of the prior to choose from; 1: there is no choice, and no error predictor
    candidate_predictions: int  # errors summed over so many imagined steps of each, the first one included
    candidate_choice: str  # per "trajectory", or one for the whole "batch"
    error_predictor_width: int  # hidden units
    error_predictor_lr: float  # Adam step size
    optim_eps: float  # Adam's epsilon


class Candidates:
    """Chooses imagined states by the error predicted for what follows from them.

    The predictor learns the errors of the model that gradients move, and judges states of the one that
    imagines. They are the same where ``wm_averaging`` is 0 (MAG); else the second averages the first (MAG
    small).

    Of the dead nothing is seen, so little is got wrong: if they counted, the candidates in which most die
    would be chosen. Hence candidates share who lives, and errors are those of the living.

    Args:
        model: the world model.
        mac: whose policy continues the candidates.
        config: how many, how far.
    """

    def __init__(self, model: WorldModel, mac: BasicMAC, config: CandidatesConfig) -> None:
        self.model, self.mac, self.config = model, mac, config
        self.predictor = ErrorPredictor(model.feature_size, config.error_predictor_width)
        self.optimiser = Adam(
            self.predictor.parameters(), lr=config.error_predictor_lr, eps=config.optim_eps, fused=True
        )

    def train(self, model: WorldModel, loss: WorldModelLoss, is_first: Tensor) -> dict[str, Tensor]:
        """One step towards the losses that a model has just had, from the states that it foresaw there.

        Args:
            model: the one that learns.
            loss: of windows (B, T).
            is_first: (B, T) bool.
        """
        living = loss.state.living
        with torch.no_grad():
            foreseen = model.foresee(loss.state.h, living).features
        counts = has_past(is_first).unsqueeze(-1) & living
        error_loss = masked_mean(self.predictor.loss(foreseen, loss.per_agent), counts)
        self.optimiser.zero_grad()
        error_loss.backward()
        self.optimiser.step()
        return {"error_predictor_loss": error_loss.detach()}

    @torch.no_grad()
    def advance(self, moment: Moment, decision: Decision) -> LatentState:
        """The next states (N, n, ...) of the candidates with the least predicted error.

        All candidates of a moment share its joint action, and so the deterministic state that it leads to,
        and who lives there.
        """
        k = self.config.candidates
        h = self.model.advance(moment.state, decision.actions)
        shared = (h, self.model.draw_living(h), decision.actor_hidden)
        h_of_each, living, actor_hidden = (part.repeat_interleave(k, dim=0) for part in shared)
        first = self.model.foresee(h_of_each, living)
        errors = self.foreseen_errors(first, actor_hidden)
        chosen = torch.arange(len(h), device=h.device) * k + self.choose(errors.view(-1, k))
        return first.at(chosen)._replace(h=h)

    def choose(self, errors: Tensor) -> Tensor:
        """(N, candidates) errors -> the (N,) candidates taken; all the same one if chosen per batch."""
        if self.config.candidate_choice == "batch":
            return errors.mean(dim=0).argmin().expand(len(errors))
        return errors.argmin(dim=1)

    def foreseen_errors(self, state: LatentState, actor_hidden: Tensor) -> Tensor:
        """Errors (M,) predicted for states (M, n, ...) and what follows under the policy, added up.

        At each step it is the mean over the living; where nobody lives any more, the one before goes on.
        """
        error = self._error(state, torch.zeros_like(state.h[:, 0, 0]))
        errors = error
        for _ in range(self.config.candidate_predictions - 1):
            moment = imagined_moment(self.model, self.mac, state, self.model.as_read(state), actor_hidden)
            actions, _, actor_hidden = act(self.mac, moment)
            state = self.model.imagine(state, actions)
            error = self._error(state, error)
            errors = errors + error
        return errors

    def _error(self, state: LatentState, before: Tensor) -> Tensor:
        living = state.living.float()
        mean = (self.predictor(state.features) * living).sum(dim=-1) / living.sum(dim=-1).clamp_min(1)
        return torch.where(living.any(dim=-1), mean, before)

    def state_dict(self) -> dict[str, Any]:
        """The predictor and its optimiser."""
        return {"predictor": self.predictor.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.predictor.load_state_dict(state["predictor"])
        self.optimiser.load_state_dict(state["optimiser"])
