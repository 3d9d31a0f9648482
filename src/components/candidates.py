"""MAG: of several samples of what may come next, imagination takes the one the model errs least in."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.imagination import Decision, Moment, act, decode
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


class Candidates:
    """Chooses imagined states by the error predicted for what follows from them.

    Args:
        model: the world model.
        mac: whose policy continues the candidates.
        config: how many, how far.
    """

    def __init__(self, model: WorldModel, mac: BasicMAC, config: CandidatesConfig) -> None:
        self.model, self.mac, self.config = model, mac, config
        self.predictor = ErrorPredictor(model.feature_size, config.error_predictor_width)
        self.optimiser = torch.optim.Adam(
            self.predictor.parameters(), lr=config.error_predictor_lr, eps=1e-5, fused=True
        )

    def train(self, loss: WorldModelLoss, is_first: Tensor) -> dict[str, Tensor]:
        """One step towards the losses that the model has just had, from the states that it foresaw there.

        Args:
            loss: of windows (B, T).
            is_first: (B, T) bool.
        """
        with torch.no_grad():
            foreseen = self.model.foresee(loss.state.h).features
        counts = has_past(is_first).unsqueeze(-1)
        error_loss = masked_mean(self.predictor.loss(foreseen, loss.per_agent), counts)
        self.optimiser.zero_grad()
        error_loss.backward()
        self.optimiser.step()
        return {"error_predictor_loss": error_loss.detach()}

    @torch.no_grad()
    def advance(self, moment: Moment, decision: Decision) -> LatentState:
        """The next states (N, n, ...) of the candidates with the least predicted error.

        All candidates of a moment share its joint action, and so the deterministic state that it leads to.
        """
        k = self.config.candidates
        h = self.model.advance(moment.state, decision.actions)
        first = self.model.foresee(h.repeat_interleave(k, dim=0))
        errors = self.foreseen_errors(first, decision.actor_hidden.repeat_interleave(k, dim=0))
        chosen = torch.arange(len(h), device=h.device) * k + self.choose(errors.view(-1, k))
        return LatentState(h, first.z[chosen])

    def choose(self, errors: Tensor) -> Tensor:
        """(N, candidates) errors -> the (N,) candidates taken; all the same one if chosen per batch."""
        if self.config.candidate_choice == "batch":
            return errors.mean(dim=0).argmin().expand(len(errors))
        return errors.argmin(dim=1)

    def foreseen_errors(self, state: LatentState, actor_hidden: Tensor) -> Tensor:
        """Errors (M,) predicted for states (M, n, ...) and what follows under the policy, added up."""
        errors = self.predictor(state.features).mean(dim=-1)
        for _ in range(self.config.candidate_predictions - 1):
            moment = Moment(state, *decode(self.model.sight(state.features), state.living), actor_hidden)
            actions, _, actor_hidden = act(self.mac, moment)
            state = self.model.imagine(state, actions)
            errors = errors + self.predictor(state.features).mean(dim=-1)
        return errors

    def state_dict(self) -> dict[str, Any]:
        """The predictor and its optimiser."""
        return {"predictor": self.predictor.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.predictor.load_state_dict(state["predictor"])
        self.optimiser.load_state_dict(state["optimiser"])
