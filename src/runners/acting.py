"""How a controller is asked for the actions of many slots."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from components.episode_buffer import EpisodeBatch
from envs.batched_env import View

NewBatch = Callable[[int, int], EpisodeBatch]  # (batch_size, max_seq_length) -> an empty batch


class Actor(Protocol):
    """Turns views into actions."""

    notes: dict[str, Tensor]
    """What the controller noted of its last decisions, fields (B, ...) on the CPU."""

    def start(self) -> None:
        """All slots are at an episode's first step."""

    def act(self, view: View, active: Tensor, t_env: int, test_mode: bool) -> Tensor:
        """Actions (B, n_agents) int64 on the CPU; those of slots not ``active`` (B,) mean nothing."""

    def restart(self, ended: Tensor) -> None:
        """The slots in ``ended`` (B,) bool are at an episode's first step."""

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on between two calls."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a :meth:`state_dict`."""


class WindowActor:
    """Asks a controller that can restart the recurrent state of single slots (``mac.reset_hidden(mask)``).

    Slots may be at different steps of their episodes, so the controller sees two steps of each: index 1 is
    now, and index 0 the step before, all zeros at an episode's start.
    """

    def __init__(self, mac: Any, new_batch: NewBatch, n_slots: int):
        self.mac, self._n_slots = mac, n_slots
        self.window = new_batch(n_slots, 2)
        self._fields = self.window.data.transition_data
        self.notes: dict[str, Tensor] = {}

    def start(self) -> None:
        self.mac.init_hidden(batch_size=self._n_slots)
        for field in self._fields.values():
            field.zero_()

    def act(self, view: View, active: Tensor, t_env: int, test_mode: bool) -> Tensor:
        for field in self._fields.values():
            field[:, 0] = field[:, 1]
        self.window.update(view._asdict(), ts=1)
        actions = self.mac.select_actions(self.window, t_ep=1, t_env=t_env, test_mode=test_mode)
        self.window.update({"actions": actions.unsqueeze(-1)}, ts=1)
        noted = getattr(self.mac, "notes", {})
        self.notes = {key: value.cpu() for key, value in noted.items() if key in self._fields}
        return actions.cpu()

    def restart(self, ended: Tensor) -> None:
        for field in self._fields.values():
            field[ended] = 0
        self.mac.reset_hidden(ended)

    def state_dict(self) -> dict[str, Any]:
        """The window and the controller's recurrent state."""
        return {"window": self.window.state_dict(), "hidden_states": self.mac.hidden_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a :meth:`state_dict`."""
        self.window.load_state_dict(state["window"])
        hidden = state["hidden_states"]
        self.mac.hidden_states = hidden.to(self.window.device) if isinstance(hidden, Tensor) else hidden


class HistoryActor:
    """Asks a controller as EPyMARL does: all slots have started together, and it sees all their steps."""

    def __init__(self, mac: Any, new_batch: NewBatch, n_slots: int, length: int):
        self.mac, self._n_slots = mac, n_slots
        self._chooses_slots = "bs" in inspect.signature(mac.select_actions).parameters
        self._new_history = lambda: new_batch(n_slots, length)
        self.notes: dict[str, Tensor] = {}

    def start(self) -> None:
        self.mac.init_hidden(batch_size=self._n_slots)
        self._history = self._new_history()
        self._t = 0

    def act(self, view: View, active: Tensor, t_env: int, test_mode: bool) -> Tensor:
        playing = active.nonzero().flatten().tolist()
        self._history.update({k: v[active] for k, v in view._asdict().items()}, bs=playing, ts=self._t)
        when = {"t_ep": self._t, "t_env": t_env, "test_mode": test_mode}
        if self._chooses_slots:
            chosen = self.mac.select_actions(self._history, bs=playing, **when)
        else:  # EPyMARL's controller of MADDPG, meant for one environment
            chosen = self.mac.select_actions(self._history, **when)[playing]
        self._history.update({"actions": chosen.unsqueeze(1)}, bs=playing, ts=self._t)
        self._t += 1
        actions = torch.zeros(self._n_slots, chosen.shape[1], dtype=torch.long)
        actions[active] = chosen.cpu()
        return actions

    def restart(self, ended: Tensor) -> None:
        """Nothing: a slot whose episode ended waits until all start again."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: between two calls no episode is running."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def restarts_single_slots(mac: Any) -> bool:
    """Whether the controller is one of ours; those written for EPyMARL start all slots together."""
    return hasattr(mac, "reset_hidden")


def make_actor(mac: Any, new_batch: NewBatch, n_slots: int, length: int) -> WindowActor | HistoryActor:
    """The actor that suits the controller; ``length`` is the number of steps that a full episode fills."""
    if restarts_single_slots(mac):
        return WindowActor(mac, new_batch, n_slots)
    return HistoryActor(mac, new_batch, n_slots, length)
