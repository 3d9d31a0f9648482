"""B_p: recent imagined trajectories, what the policy is trained on."""

from typing import Any, NamedTuple

from torch import Tensor


class Imagined(NamedTuple):
    """N trajectories of H imagined steps.

    Index k of ``reward`` and ``continues`` is what step k's actions led to; ``features`` has one entry more,
    for the state after the last step.
    """

    obs: Tensor  # (N, H, n, obs_size) what the policy saw: real at step 0, decoded after
    avail_actions: Tensor  # (N, H, n, n_actions) bool
    actions: Tensor  # (N, H, n) int64
    log_probs: Tensor  # (N, H, n) of the policy that acted
    actor_hidden: Tensor  # (N, n, hidden) the policy's state before step 0
    features: Tensor  # (N, H + 1, n, feature_size) of the world model, for the critic
    reward: Tensor  # (N, H) predicted
    continues: Tensor  # (N, H) predicted probability

    def select(self, index: Tensor | slice) -> "Imagined":
        """The trajectories at ``index``."""
        return Imagined(*(field[index] for field in self))


class PseudoBuffer:
    """A preallocated ring of the last ``rounds`` imagination rounds, all of the same size.

    One round (``rounds=1``) trains the policy on fresh imagination only.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._ring: Imagined | None = None
        self._round_size = 0
        self._written = 0  # rounds ever written

    def insert(self, imagined: Imagined) -> None:
        """Add one round, in place of the oldest where the ring is full."""
        if self._ring is None:
            self._allocate(imagined)
        assert self._ring is not None
        at = (self._written % self.rounds) * self._round_size
        for ring, new in zip(self._ring, imagined, strict=True):
            ring[at : at + self._round_size] = new
        self._written += 1

    def all(self) -> Imagined:
        """Every trajectory held, as views of the ring."""
        assert self._ring is not None, "nothing was imagined yet"
        return self._ring.select(slice(0, min(self._written, self.rounds) * self._round_size))

    def _allocate(self, like: Imagined) -> None:
        self._round_size = len(like.actions)
        self._ring = Imagined(
            *(field.new_zeros((self.rounds * self._round_size, *field.shape[1:])) for field in like)
        )

    def state_dict(self) -> dict[str, Any]:
        """The rounds held and the position in the ring."""
        held = {} if self._ring is None else {k: v.clone() for k, v in self.all()._asdict().items()}
        return {"held": held, "round_size": self._round_size, "written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self._written = state["written"]
        if not state["held"]:
            return
        held = Imagined(**state["held"])
        self._allocate(held.select(slice(0, state["round_size"])))
        assert self._ring is not None
        for ring, saved in zip(self._ring, held, strict=True):
            ring[: len(saved)] = saved
