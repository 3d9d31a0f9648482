"""Episode batches against naive references; the ring and the bag of episodes."""

import numpy as np
import pytest
import torch

from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer, concat
from components.transforms import OneHot

N_AGENTS, N_ACTIONS, LENGTH = 2, 3, 5
GROUPS = {"agents": N_AGENTS}
PREPROCESS = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}


def scheme():
    return {
        "state": {"vshape": 4},
        "obs": {"vshape": 3, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "reward": {"vshape": (1,)},
        "goal": {"vshape": 2, "episode_const": True},
    }


def new_batch(batch_size=4):
    return EpisodeBatch(scheme(), GROUPS, batch_size, LENGTH, preprocess=PREPROCESS)


def numbered(first, n):
    """n full episodes, whose every value is the episode's number."""
    batch = new_batch(n)
    numbers = torch.arange(first, first + n, dtype=torch.float32)
    batch.update(
        {
            "state": numbers.view(n, 1, 1).expand(n, LENGTH, 4),
            "reward": numbers.view(n, 1, 1).expand(n, LENGTH, 1),
            "actions": (numbers.long() % N_ACTIONS).view(n, 1, 1, 1).expand(n, LENGTH, N_AGENTS, 1),
            "goal": numbers.view(n, 1).expand(n, 2),
        }
    )
    return batch


def numbers_of(batch):
    return batch["state"][:, 0, 0].long().tolist()


def test_fields_have_the_shapes_of_the_scheme():
    batch = new_batch()
    assert batch["obs"].shape == (4, LENGTH, N_AGENTS, 3)
    assert batch["actions"].dtype == torch.long
    assert batch["actions_onehot"].shape == (4, LENGTH, N_AGENTS, N_ACTIONS)
    assert batch["goal"].shape == (4, 2)
    assert batch["filled"].shape == (4, LENGTH, 1)
    assert batch.scheme["actions_onehot"]["group"] == "agents"


@pytest.mark.parametrize("seed", range(5))
def test_updates_match_a_naive_reference(seed):
    rng = np.random.default_rng(seed)
    batch = new_batch()
    obs, filled = np.zeros((4, LENGTH, N_AGENTS, 3), np.float32), np.zeros((4, LENGTH), int)
    actions, onehot = np.zeros((4, LENGTH, N_AGENTS), int), np.zeros((4, LENGTH, N_AGENTS, N_ACTIONS))
    for _ in range(10):
        slots = rng.permutation(4)[: rng.integers(1, 5)].tolist()
        t, mark = int(rng.integers(LENGTH)), bool(rng.integers(2))
        new_obs = rng.normal(size=(len(slots), N_AGENTS, 3)).astype(np.float32)
        new_actions = rng.integers(N_ACTIONS, size=(len(slots), N_AGENTS))
        batch.update({"obs": list(new_obs), "actions": torch.tensor(new_actions)}, slots, t, mark_filled=mark)
        for row, slot in enumerate(slots):
            obs[slot, t], actions[slot, t] = new_obs[row], new_actions[row]
            onehot[slot, t] = np.eye(N_ACTIONS)[new_actions[row]]
            filled[slot, t] |= mark
    np.testing.assert_array_equal(batch["obs"], obs)
    np.testing.assert_array_equal(batch["actions"].squeeze(-1), actions)
    np.testing.assert_array_equal(batch["actions_onehot"], onehot)
    np.testing.assert_array_equal(batch["filled"].squeeze(-1), filled)


def test_index_tensors_write_to_pairs_of_episode_and_step():
    batch = new_batch()
    batch.update({"reward": torch.tensor([[1.0], [2.0]])}, bs=torch.tensor([3, 0]), ts=torch.tensor([1, 4]))
    expected = torch.zeros(4, LENGTH)
    expected[3, 1], expected[0, 4] = 1.0, 2.0
    assert torch.equal(batch["reward"].squeeze(-1), expected)
    assert torch.equal(batch["filled"].squeeze(-1), (expected > 0).long())


def test_integers_slices_and_lists_select_episodes_and_steps():
    batch = numbered(0, 4)
    assert numbers_of(batch[2]) == [2]
    assert numbers_of(batch[-1]) == [3]
    assert numbers_of(batch[1:3]) == [1, 2]
    assert numbers_of(batch[[3, 0]]) == [3, 0]
    part = batch[torch.tensor([3, 0]), 1:4]
    assert (part.batch_size, part.max_seq_length, part["obs"].shape[1]) == (2, 3, 3)
    assert part["goal"][:, 0].tolist() == [3, 0]
    assert batch[:, 2].max_seq_length == 1
    chosen = batch["state", "goal"]
    assert set(chosen.scheme) == {"state", "goal"}
    assert numbers_of(chosen) == [0, 1, 2, 3]


def test_slices_share_memory_and_can_be_updated():
    batch = new_batch()
    batch[1:3].update({"actions": torch.full((2, N_AGENTS), 2)}, ts=1)
    assert batch["actions_onehot"][1:3, 1, :, 2].eq(1).all()
    assert batch["filled"].sum() == 2


def test_max_t_filled_is_the_longest_episode_and_a_slice_bound():
    batch = new_batch()
    batch.update({"reward": torch.ones(3)}, bs=1, ts=slice(0, 3))
    batch.update({"reward": torch.ones(2)}, bs=2, ts=slice(0, 2))
    assert batch.max_t_filled().item() == 3
    assert batch[:, : batch.max_t_filled()].max_seq_length == 3


def test_what_does_not_fit_is_refused():
    batch = new_batch()
    with pytest.raises(ValueError, match="obs"):
        batch.update({"obs": torch.zeros(4, 3, N_AGENTS)}, ts=0)
    with pytest.raises(KeyError, match="rewards"):
        batch.update({"rewards": torch.zeros(4)}, ts=0)
    with pytest.raises(IndexError):
        batch[:, [0, 1]]
    with pytest.raises(ValueError, match="filled"):
        EpisodeBatch({"filled": {"vshape": 1}}, {}, 1, 1)


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 3, 2], [4, 4], [7]])
def test_ring_holds_the_last_episodes(sizes):
    buffer = ReplayBuffer(scheme(), GROUPS, 4, LENGTH, preprocess=PREPROCESS)
    inserted = []
    for size in sizes:
        buffer.insert_episode_batch(numbered(len(inserted), size))
        inserted += range(len(inserted), len(inserted) + size)
    assert sorted(numbers_of(buffer[: buffer.episodes_in_buffer])) == inserted[-4:]
    assert sorted(numbers_of(buffer.sample(4))) == inserted[-4:]


def test_a_shorter_episode_leaves_nothing_of_the_longer_one_before():
    buffer = ReplayBuffer(scheme(), GROUPS, 1, LENGTH, preprocess=PREPROCESS)
    buffer.insert_episode_batch(numbered(1, 1))
    buffer.insert_episode_batch(numbered(2, 1)[:, :2])
    assert buffer.max_t_filled().item() == 2


def test_samples_are_uniform_without_repetition_and_follow_the_seed():
    buffers = [ReplayBuffer(scheme(), GROUPS, 8, LENGTH, preprocess=PREPROCESS, seed=s) for s in (1, 1, 2)]
    for buffer in buffers:
        assert not buffer.can_sample(1)
        buffer.insert_episode_batch(numbered(0, 6))
        with pytest.raises(ValueError, match="7"):
            buffer.sample(7)
    draws = [[numbers_of(buffer.sample(3)) for _ in range(400)] for buffer in buffers]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(draw)) == 3 for draw in draws[0])
    counts = np.bincount(np.concatenate(draws[0]), minlength=6)
    assert counts.min() > 150  # 200 expected of each of the six
    assert len(counts) == 6


def test_a_restored_ring_goes_on_identically():
    buffer = ReplayBuffer(scheme(), GROUPS, 4, LENGTH, preprocess=PREPROCESS, seed=3)
    buffer.insert_episode_batch(numbered(0, 3))
    buffer.sample(2)
    other = ReplayBuffer(scheme(), GROUPS, 4, LENGTH, preprocess=PREPROCESS, seed=4)
    other.load_state_dict(buffer.state_dict())
    for b in (buffer, other):
        b.insert_episode_batch(numbered(3, 3))
    for _ in range(5):
        assert numbers_of(buffer.sample(3)) == numbers_of(other.sample(3))
    assert torch.equal(buffer["actions_onehot"], other["actions_onehot"])


def test_bag_gives_everything_once_in_order():
    bag = OnPolicyBuffer(scheme(), GROUPS, LENGTH, preprocess=PREPROCESS)
    bag.insert_episode_batch(numbered(0, 2))
    bag.insert_episode_batch(numbered(2, 1))
    restored = OnPolicyBuffer(scheme(), GROUPS, LENGTH, preprocess=PREPROCESS)
    restored.load_state_dict(bag.state_dict())
    for b in (bag, restored):
        assert b.episodes_in_buffer == 3
        assert numbers_of(b.take()) == [0, 1, 2]
        assert b.take().batch_size == b.episodes_in_buffer == 0


def test_concat_copies():
    first = numbered(0, 1)
    both = concat([first, numbered(1, 2)])
    first["state"].zero_().add_(9)
    assert numbers_of(both) == [0, 1, 2]
    assert both["goal"].shape == (3, 2)
