"""B_p: recent imagined trajectories, what the policy is trained on."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.memory import require


class Imagined(NamedTuple):
    """N trajectories of H imagined steps.

    Index k of ``reward`` and ``continues`` is what step k's actions led to; ``h`` and ``picked`` have one
    entry more, for the state after the last step.
    """

    obs: Tensor  # (N, H, n, obs_size) what the policy saw, if anything: real at step 0, decoded after
    avail_actions: Tensor  # (N, H, n, n_actions) bool
    actions: Tensor  # (N, H, n) int64
    log_probs: Tensor  # (N, H, n) of the policy that acted
    actor_hidden: Tensor  # (N, n, hidden) the policy's state before step 0
    h: Tensor  # (N, H + 1, n, width) of the world model's states, as CompactState has them
    picked: Tensor  # (N, H + 1, n, groups) int16
    reward: Tensor  # (N, H) predicted
    continues: Tensor  # (N, H) predicted probability

    def select(self, rows: Tensor) -> "Imagined":
        """Copies of the trajectories ``rows`` (m,) int64."""
        # Indexing, ``field[rows]``, takes twice as long.
        return Imagined(*(field.index_select(0, rows) for field in self))


@dataclass(frozen=True)
class ImaginedSizes:
    """Shapes of one imagination round, the letters those of :class:`Imagined`."""

    trajectories: int  # N
    horizon: int  # H
    n_agents: int  # n
    obs_size: int
    n_actions: int
    hidden_size: int
    width: int
    groups: int
    h_dtype: torch.dtype = torch.float32  # what networks round h to needs no more room than that

    def zeros(self, rounds: int, device: torch.device | str) -> Imagined:
        """Room for some rounds."""
        n, h, agents = rounds * self.trajectories, self.horizon, self.n_agents

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros((n, *shape), dtype=dtype, device=device)

        return Imagined(
            obs=zeros(h, agents, self.obs_size),
            avail_actions=zeros(h, agents, self.n_actions, dtype=torch.bool),
            actions=zeros(h, agents, dtype=torch.int64),
            log_probs=zeros(h, agents),
            actor_hidden=zeros(agents, self.hidden_size),
            h=zeros(h + 1, agents, self.width, dtype=self.h_dtype),
            picked=zeros(h + 1, agents, self.groups, dtype=torch.int16),
            reward=zeros(h),
            continues=zeros(h),
        )


class PseudoBuffer:
    """A preallocated ring of the last ``rounds`` imagination rounds, each of ``sizes``.

    One round (``rounds=1``) trains the policy on fresh imagination only.

    Raises:
        ValueError: there is not enough memory for it.
    """

    def __init__(self, rounds: int, sizes: ImaginedSizes, device: torch.device | str = "cpu") -> None:
        self.rounds = rounds
        self._round_size = sizes.trajectories
        self.nbytes = sum(field.nbytes for field in sizes.zeros(rounds, "meta"))
        require(
            "buffer of imagined play", self.nbytes, device, "pseudo_rounds, imagination_starts or wm_width"
        )
        self._ring = sizes.zeros(rounds, device)
        self._written = 0  # rounds ever written

    def insert(self, imagined: Imagined) -> None:
        """Add one round, in place of the oldest where the ring is full."""
        at = (self._written % self.rounds) * self._round_size
        for ring, new in zip(self._ring, imagined, strict=True):
            ring[at : at + self._round_size] = new
        self._written += 1

    def all(self) -> Imagined:
        """Every trajectory held, as views of the ring."""
        held = min(self._written, self.rounds) * self._round_size
        return Imagined(*(field[:held] for field in self._ring))

    def state_dict(self) -> dict[str, Any]:
        """The rounds held (views, not copies) and the position in the ring."""
        return {"held": self.all()._asdict(), "written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self._written = state["written"]
        for key, saved in state["held"].items():
            getattr(self._ring, key)[: len(saved)] = saved
