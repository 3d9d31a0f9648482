"""Episodes as tensors: a batch of them, a ring of past ones to sample from, and a bag of fresh ones."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from components.transforms import Transform
from utils.memory import require

Scheme = dict[str, dict[str, Any]]
Preprocess = Mapping[str, tuple[str, Sequence[Transform]]]
Device = str | torch.device
Index = slice | list[int] | np.ndarray | Tensor


class EpisodeBatch:
    """Padded episodes, stored field by field in tensors of shape (batch, time, [group,] *vshape).

    ``scheme`` maps a field to ``vshape`` (int or tuple), optionally ``dtype`` (float32), ``group`` (a key of
    ``groups``, whose size becomes the dimension before ``vshape``) and ``episode_const`` (one value per
    episode: no time dimension). ``preprocess`` maps a field to (new field, transforms): the new field is
    filled whenever the field is written. The long field ``filled`` (batch, time, 1) marks steps with data.

    ``batch["obs"]`` is the tensor itself; ``batch["obs", "state"]`` a batch of these fields; ``batch[b]``,
    ``batch[b0:b1]``, ``batch[[2, 5]]``, ``batch[bs, t0:t1]`` are batches of those episodes and steps
    (integers keep their dimension). Slices share memory with the original, lists copy.
    """

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        batch_size: int,
        max_seq_length: int,
        data: SimpleNamespace | None = None,
        preprocess: Preprocess | None = None,
        device: Device = "cpu",
    ):
        self.scheme = dict(scheme)
        self.groups = groups
        self.batch_size = batch_size
        self.max_seq_length = max_seq_length
        self.preprocess: Preprocess = {} if preprocess is None else preprocess
        self.device = device
        if data is not None:
            self.data = data
            return
        self.data = SimpleNamespace(transition_data={}, episode_data={})
        if "filled" in scheme:
            raise ValueError("'filled' is reserved: the batch makes this field itself.")
        self.scheme["filled"] = {"vshape": (1,), "dtype": torch.long}
        self.scheme.update(self._derived_fields())
        self._allocate(self.scheme, groups)

    def _derived_fields(self) -> Scheme:
        derived = {}
        for key, (new_key, transforms) in self.preprocess.items():
            field = self.scheme[key]
            vshape, dtype = field["vshape"], field.get("dtype", torch.float32)
            for transform in transforms:
                vshape, dtype = transform.infer_output_info(vshape, dtype)
            derived[new_key] = {**field, "vshape": vshape, "dtype": dtype}
        return derived

    def _allocate(self, scheme: Scheme, groups: Mapping[str, int]) -> None:
        for key, field in scheme.items():
            vshape = field["vshape"]
            shape = (vshape,) if isinstance(vshape, int) else tuple(vshape)
            group = field.get("group")
            if group is not None:
                if group not in groups:
                    raise ValueError(f"Field '{key}' belongs to group '{group}', of unknown size.")
                shape = (groups[group], *shape)
            constant = field.get("episode_const", False)
            store = self.data.episode_data if constant else self.data.transition_data
            leading = (self.batch_size,) if constant else (self.batch_size, self.max_seq_length)
            dtype = field.get("dtype", torch.float32)
            store[key] = torch.zeros(*leading, *shape, dtype=dtype, device=self.device)

    def extend(self, scheme: Scheme, groups: Mapping[str, int] | None = None) -> None:
        """Adds the fields of ``scheme``, all zero."""
        self.scheme.update(scheme)
        self._allocate(scheme, self.groups if groups is None else groups)

    def to(self, device: Device) -> Self:
        """Moves the batch in place, and returns it."""
        for store in (self.data.transition_data, self.data.episode_data):
            for key, value in store.items():
                store[key] = value.to(device)
        self.device = device
        return self

    def update(
        self,
        data: Mapping[str, Any],
        bs: int | Index = slice(None),
        ts: int | Index = slice(None),
        mark_filled: bool = True,
    ) -> None:
        """Writes ``data`` (field -> tensor, array or list) at episodes ``bs`` and steps ``ts``.

        A value's shape may differ from its place in the batch by dimensions of size one. ``bs`` and ``ts``
        may also be two index tensors of equal length: then entry i of a value goes to (bs[i], ts[i]).

        Raises:
            KeyError: a field that is not in the scheme.
            ValueError: a value that does not fit.
        """
        where = _parse_index((bs, ts))
        place: tuple[Index, ...]
        if mark_filled and any(key in self.data.transition_data for key in data):
            self.data.transition_data["filled"][where] = 1
        for key, value in data.items():
            if key in self.data.transition_data:
                store, place = self.data.transition_data, where
            elif key in self.data.episode_data:
                store, place = self.data.episode_data, where[:1]
            else:
                raise KeyError(f"'{key}' is no field of this batch; it has {sorted(self.scheme)}.")
            self._write(store, key, place, value)

    def _write(self, store: dict[str, Tensor], key: str, place: tuple[Index, ...], value: Any) -> None:
        target = store[key]
        if isinstance(value, list | tuple):
            value = np.asarray(value)
        value = torch.as_tensor(value, dtype=target.dtype, device=target.device)
        shape = _shape_at(target, place)
        if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
            raise ValueError(f"Field '{key}': shape {tuple(value.shape)} does not fit {tuple(shape)}.")
        value = value.reshape(shape)
        target[place] = value
        if key in self.preprocess:
            new_key, transforms = self.preprocess[key]
            for transform in transforms:
                value = transform.transform(value)
            store[new_key][place] = value.to(store[new_key].dtype)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            if item in self.data.transition_data:
                return self.data.transition_data[item]
            if item in self.data.episode_data:
                return self.data.episode_data[item]
            raise KeyError(f"'{item}' is no field of this batch; it has {sorted(self.scheme)}.")
        if isinstance(item, tuple) and all(isinstance(key, str) for key in item):
            return self._select_fields(item)
        where = _parse_index(item)
        if not isinstance(where[1], slice):
            raise IndexError("Steps are selected by an integer or a slice.")
        data = SimpleNamespace(
            transition_data={key: value[where] for key, value in self.data.transition_data.items()},
            episode_data={key: value[where[0]] for key, value in self.data.episode_data.items()},
        )
        return EpisodeBatch(
            self.scheme,
            self.groups,
            _count(where[0], self.batch_size),
            _count(where[1], self.max_seq_length),
            data=data,
            preprocess=self.preprocess,
            device=self.device,
        )

    def _select_fields(self, keys: tuple[str, ...]) -> EpisodeBatch:
        unknown = [key for key in keys if key not in self.scheme]
        if unknown:
            raise KeyError(f"No such field: {unknown}; the batch has {sorted(self.scheme)}.")
        stores = (self.data.transition_data, self.data.episode_data)
        transition, episode = ({key: store[key] for key in keys if key in store} for store in stores)
        scheme = {key: self.scheme[key] for key in keys}
        names = {field["group"] for field in scheme.values() if field.get("group")}
        groups = {name: size for name, size in self.groups.items() if name in names}
        data = SimpleNamespace(transition_data=transition, episode_data=episode)
        return EpisodeBatch(
            scheme, groups, self.batch_size, self.max_seq_length, data=data, device=self.device
        )

    @property
    def nbytes(self) -> int:
        """Memory that the fields take."""
        stores = (self.data.transition_data, self.data.episode_data)
        return sum(field.nbytes for store in stores for field in store.values())

    def max_t_filled(self) -> Tensor:
        """Length of the longest episode, as a tensor of shape (1,) that can be used as a slice bound."""
        return self.data.transition_data["filled"].sum(1).max(0)[0]

    def state_dict(self) -> dict[str, Any]:
        """The tensors of all fields (not copied)."""
        return {"transition_data": self.data.transition_data, "episode_data": self.data.episode_data}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the values of :meth:`state_dict` of a batch of the same scheme and size."""
        for name, store in state.items():
            for key, value in store.items():
                getattr(self.data, name)[key].copy_(value)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(batch_size={self.batch_size}, max_seq_length={self.max_seq_length}, "
            f"fields={sorted(self.scheme)}, groups={dict(self.groups)})"
        )


def concat(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """The episodes of all ``batches`` (same scheme, same length) in one new batch, in order."""
    first = batches[0]
    transition, episode = (
        {key: torch.cat([getattr(b.data, name)[key] for b in batches]) for key in getattr(first.data, name)}
        for name in ("transition_data", "episode_data")
    )
    return with_data(first, {"transition_data": transition, "episode_data": episode})


def with_data(like: EpisodeBatch, state: Mapping[str, Mapping[str, Tensor]]) -> EpisodeBatch:
    """The tensors of an :meth:`EpisodeBatch.state_dict` as a batch of the scheme and length of ``like``."""
    return EpisodeBatch(
        like.scheme,
        like.groups,
        len(state["transition_data"]["filled"]),
        like.max_seq_length,
        data=SimpleNamespace(**{name: dict(store) for name, store in state.items()}),
        preprocess=like.preprocess,
        device=like.device,
    )


def _parse_index(item: Any) -> tuple[Index, Index]:
    """(episodes, steps) from what stands in the brackets; integers become slices of length one."""
    pair = item if isinstance(item, tuple) else (item, slice(None))
    if isinstance(pair[1], list | np.ndarray):
        raise IndexError("Steps are selected by an integer or a slice.")
    bs, ts = (_keep_dimension(part) for part in pair)
    return bs, ts


def _keep_dimension(part: Any) -> Index:
    if isinstance(part, slice | list) or getattr(part, "ndim", 0) > 0:
        return part
    i = operator.index(part)
    return slice(i, i + 1 if i != -1 else None)


def _shape_at(target: Tensor, place: tuple[Index, ...]) -> torch.Size:
    """Shape of ``target[place]``; two index tensors pair up, and what they pick is not copied for it."""
    slots = place[0]
    if isinstance(slots, Tensor) and slots.dtype == torch.long and isinstance(place[-1], Tensor):
        return torch.Size([len(slots), *target.shape[len(place) :]])
    return target[place].shape


def _count(part: Index, size: int) -> int:
    """How many of ``size`` items an index selects."""
    if isinstance(part, slice):
        return len(range(*part.indices(size)))
    return len(np.arange(size)[np.asarray(part, dtype=None if len(part) else int)])


class ReplayBuffer(EpisodeBatch):
    """The last ``buffer_size`` episodes in a preallocated ring, to draw random batches from.

    Raises:
        ValueError: there is not enough memory for it.
    """

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        buffer_size: int,
        max_seq_length: int,
        preprocess: Preprocess | None = None,
        device: Device = "cpu",
        seed: int = 0,
    ):
        shape = (scheme, groups, buffer_size, max_seq_length)
        size = EpisodeBatch(*shape, preprocess=preprocess, device="meta").nbytes
        require("replay buffer", size, device, "buffer_size")
        super().__init__(*shape, preprocess=preprocess, device=device)
        self.buffer_size = buffer_size
        self.buffer_index = 0
        self.episodes_in_buffer = 0
        self.rng = np.random.default_rng(seed)

    def insert_episode_batch(self, ep_batch: EpisodeBatch) -> None:
        """Copies the episodes in, over the oldest ones where the ring is full."""
        ep_batch = ep_batch[-self.buffer_size :]
        n, length = ep_batch.batch_size, ep_batch.max_seq_length
        rows = (self.buffer_index + torch.arange(n, device=self.device)) % self.buffer_size
        for key, value in ep_batch.data.transition_data.items():
            self.data.transition_data[key][rows, :length] = value.to(self.device)
        for key, value in ep_batch.data.episode_data.items():
            self.data.episode_data[key][rows] = value.to(self.device)
        self.data.transition_data["filled"][rows, length:] = 0
        self.buffer_index = (self.buffer_index + n) % self.buffer_size
        self.episodes_in_buffer = min(self.episodes_in_buffer + n, self.buffer_size)

    def can_sample(self, batch_size: int) -> bool:
        """Whether there are ``batch_size`` episodes to draw."""
        return self.episodes_in_buffer >= batch_size

    def sample(self, batch_size: int) -> EpisodeBatch:
        """``batch_size`` different episodes, each as likely as any other, copied out.

        Raises:
            ValueError: there are not that many episodes yet.
        """
        if not self.can_sample(batch_size):
            raise ValueError(f"{batch_size} episodes asked for, the buffer has {self.episodes_in_buffer}.")
        return self[torch.from_numpy(self.rng.choice(self.episodes_in_buffer, batch_size, replace=False))]

    def state_dict(self) -> dict[str, Any]:
        """The steps of stored episodes that are filled, position in the ring, state of the generator.

        Episodes are padded to the longest possible one, and most are far shorter.
        """
        stored = self[: self.episodes_in_buffer]
        filled = stored["filled"][..., 0].bool()
        fields = stored.data.transition_data.items()
        # To main memory one by one: a GPU may have no room for a second copy.
        steps = {key: field[filled].cpu() for key, field in fields if key != "filled"}
        return {
            "filled": filled,
            "steps": steps,
            "episode_data": stored.data.episode_data,
            "buffer_index": self.buffer_index,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a :meth:`state_dict` of a buffer of the same size."""
        filled = state["filled"].to(self.device)
        self.buffer_index = state["buffer_index"]
        self.episodes_in_buffer = len(filled)
        self.rng.bit_generator.state = state["rng"]
        stored = self[: self.episodes_in_buffer]
        stored["filled"][:] = filled.unsqueeze(-1)
        for key, steps in state["steps"].items():
            stored[key].zero_()
            stored[key][filled] = steps.to(self.device)
        for key, field in state["episode_data"].items():
            stored[key].copy_(field)


class OnPolicyBuffer:
    """Fresh episodes, kept until they are taken for one round of learning."""

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        max_seq_length: int,
        preprocess: Preprocess | None = None,
        device: Device = "cpu",
    ):
        self._empty = EpisodeBatch(scheme, groups, 0, max_seq_length, preprocess=preprocess, device=device)
        self._batches: list[EpisodeBatch] = []

    @property
    def episodes_in_buffer(self) -> int:
        """How many episodes wait."""
        return sum(batch.batch_size for batch in self._batches)

    def insert_episode_batch(self, ep_batch: EpisodeBatch) -> None:
        """Adds the episodes, moved to the buffer's device, otherwise not copied."""
        self._batches.append(ep_batch.to(self._empty.device))

    def take(self) -> EpisodeBatch:
        """All episodes, oldest first (a batch of none if there are none); the buffer is empty afterwards."""
        episodes = concat([self._empty, *self._batches])
        self._batches = []
        return episodes

    def state_dict(self) -> dict[str, Any]:
        """The tensors of the waiting episodes."""
        return concat([self._empty, *self._batches]).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a :meth:`state_dict`."""
        self._batches = [with_data(self._empty, state).to(self._empty.device)]
