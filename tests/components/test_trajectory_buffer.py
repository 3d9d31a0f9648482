"""What goes into B_r comes out as consecutive arrivals."""

import numpy as np
import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.trajectory_buffer import TrajectoryBuffer

N_AGENTS, OBS, ACTIONS, LIMIT = 2, 3, 4, 6


def episodes(spans: list[tuple[int, bool]], first_id: int = 0) -> EpisodeBatch:
    """Episodes of (steps, terminated); observation, action and reward tell episode and step."""
    scheme = {
        "obs": {"vshape": OBS, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (ACTIONS,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    batch = EpisodeBatch(scheme, {"agents": N_AGENTS}, len(spans), LIMIT + 1)
    for row, (steps, terminated) in enumerate(spans):
        code = 100.0 * (first_id + row) + torch.arange(steps + 1)
        batch.update(
            {
                "obs": code[:, None, None].expand(-1, N_AGENTS, OBS),
                "avail_actions": torch.ones(steps + 1, N_AGENTS, ACTIONS),
            },
            row,
            slice(0, steps + 1),
        )
        batch.update(
            {
                "actions": (torch.arange(steps) % ACTIONS)[:, None, None].expand(-1, N_AGENTS, 1),
                "reward": code[:steps, None] + 1,
                "terminated": torch.tensor([[0]] * (steps - 1) + [[int(terminated)]]),
            },
            row,
            slice(0, steps),
        )
    return batch


def make_buffer(capacity: int = 50, sigma: float = 0.0) -> TrajectoryBuffer:
    return TrajectoryBuffer(capacity, N_AGENTS, OBS, ACTIONS, sigma, "preserve", seed=3)


def test_an_episode_becomes_arrivals() -> None:
    buffer = make_buffer()
    buffer.insert_episode_batch(episodes([(3, True)]))
    data, mask = buffer.sample_episodes(1)
    assert mask.all()
    assert data.obs.shape == (1, 4, N_AGENTS, OBS)
    assert data.obs[0, :, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.reward[0].tolist() == [0, 1, 2, 3]  # the reward of step t arrives with observation t + 1
    assert data.actions[0, :3, 0].tolist() == [0, 1, 2]
    assert data.continues[0].tolist() == [1, 1, 1, 0]
    assert data.is_first[0].tolist() == [True, False, False, False]
    assert data.is_last[0].tolist() == [False, False, False, True]


def test_a_time_limit_continues() -> None:
    buffer = make_buffer()
    buffer.insert_episode_batch(episodes([(LIMIT, False)]))
    data, _ = buffer.sample_episodes(1)
    assert data.continues.min() == 1
    assert data.is_last[0, -1]


def test_the_trend_preserves_the_return() -> None:
    buffer = make_buffer(sigma=2.0)
    buffer.insert_episode_batch(episodes([(5, True), (2, False)]))
    for _ in range(5):
        data, mask = buffer.sample_episodes(1)
        assert (data.trend * mask).sum().item() == pytest.approx((data.reward * mask).sum().item(), rel=1e-5)


def test_windows_are_consecutive_and_old_episodes_leave() -> None:
    buffer = make_buffer(capacity=23)
    rng = np.random.default_rng(0)
    order: list[float] = []  # every record ever written, by the code in its observation
    for i in range(40):
        span = (int(rng.integers(1, LIMIT + 1)), bool(rng.integers(2)))
        buffer.insert_episode_batch(episodes([span], first_id=i))
        order += [100.0 * i + t for t in range(span[0] + 1)]
        kept = order[-23:]
        assert len(buffer) == len(kept)
        if len(kept) < 5:
            continue
        for window in buffer.sample_windows(8, 5).obs[..., 0, 0].tolist():
            at = kept.index(window[0])
            assert kept[at : at + 5] == window
        data, mask = buffer.sample_episodes(4)
        for row in range(4):
            codes = data.obs[row, mask[row], 0, 0].tolist()
            assert codes[0] % 100 == 0
            assert data.is_last[row, mask[row]][-1]
            assert codes == [codes[0] + t for t in range(len(codes))]
            assert codes[0] in kept


def test_episodes_are_drawn_in_proportion_to_their_length() -> None:
    buffer = make_buffer()
    buffer.insert_episode_batch(episodes([(1, True), (5, True)]))  # 2 and 6 records
    _, mask = buffer.sample_episodes(4000)
    assert (mask.sum(dim=1) == 6).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_the_newest_records_can_be_asked_for() -> None:
    buffer = make_buffer()
    for i in range(5):
        buffer.insert_episode_batch(episodes([(3, True)], first_id=i))  # 4 records each
    data, _ = buffer.sample_episodes(200, newest=6)
    assert set((data.obs[:, 0, 0, 0] // 100).tolist()) == {3, 4}


def test_individual_rewards_are_summed() -> None:
    batch = episodes([(2, True)])
    batch.data.transition_data["reward"] = batch["reward"].expand(-1, -1, 2).contiguous()
    buffer = make_buffer()
    buffer.insert_episode_batch(batch)
    assert buffer.sample_episodes(1)[0].reward[0].tolist() == [0, 2, 4]


def test_of_more_than_fit_the_newest_are_kept() -> None:
    spans = [(3, True), (5, True), (2, False), (4, True)]
    at_once, one_by_one = make_buffer(capacity=9), make_buffer(capacity=9)
    at_once.insert_episode_batch(episodes(spans))
    for i, span in enumerate(spans):
        one_by_one.insert_episode_batch(episodes([span], first_id=i))
    for buffer in (at_once, one_by_one):
        data, mask = buffer.sample_episodes(200)
        assert set((data.obs[:, 0, 0, 0] // 100).tolist()) == {2, 3}
        assert set(mask.sum(dim=1).tolist()) == {3, 5}


def test_an_episode_too_long_for_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="replay_capacity"):
        make_buffer(capacity=4).insert_episode_batch(episodes([(5, True)]))


def test_a_restored_buffer_goes_on_identically() -> None:
    buffer, twin = make_buffer(23), make_buffer(23)
    for i in range(9):
        buffer.insert_episode_batch(episodes([(5, True)], first_id=i))
    buffer.sample_windows(2, 4)
    twin.load_state_dict(buffer.state_dict())
    for b in (buffer, twin):
        b.insert_episode_batch(episodes([(4, False)], first_id=50))
    for mine, its in zip(buffer.sample_windows(6, 4), twin.sample_windows(6, 4), strict=True):
        assert torch.equal(mine, its)
    for mine, its in zip(buffer.sample_episodes(3)[0], twin.sample_episodes(3)[0], strict=True):
        assert torch.equal(mine, its)
