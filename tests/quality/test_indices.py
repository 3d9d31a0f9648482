"""GPE and GCI where the answer is known: a model that errs, and agents that disagree, by known amounts."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig
from quality.held_out import HeldOut, load, save
from quality.indices import measure
from quality.open_loop import Measured, Outlook

OBS, STATE, LENGTHS = 3, 4, (9, 6, 9, 8)  # of the recorded play in conftest.py
LOUD = 100.0  # makes the features so large that the probe's penalty does not count


@dataclass
class Oracle:
    """Knows what follows, and adds to it what it is told to; an error grows with the steps imagined.

    Its deterministic state is (episode, time, steps imagined, global state, loud).
    """

    data: HeldOut
    obs_error: float = 0.0
    reward_error: float = 0.0
    continue_error: float = 0.0
    disagreement: float = 0.0

    def condition(self, obs, actions):
        episodes = (obs[:, 0, 0, 0] - 1).long()
        time = torch.arange(obs.shape[1])
        return self._state(*torch.broadcast_tensors(episodes[:, None], time), torch.zeros(()))

    def _state(self, episode, time, steps):
        side = torch.tensor([-1.0, 1.0])[:, None] * self.disagreement * (steps > 0).float()[..., None, None]
        state = self.data.state[episode, time].unsqueeze(-2) + side
        where = torch.stack(torch.broadcast_tensors(episode, time, steps), dim=-1).unsqueeze(-2)
        h = torch.cat([where.expand(*state.shape[:-1], 3) * 1e-3, LOUD * state], dim=-1)
        return LatentState(h, h[..., :0])

    def imagine(self, state, actions):
        episode, time, steps = (1e3 * state.h[:, 0, :3]).round().long().unbind(dim=-1)
        assert torch.equal(actions, self.data.actions[episode, time])
        return self._state(episode, time + 1, steps + 1)

    def outlook(self, state):
        episode, time, steps = (1e3 * state.h[:, 0, :3]).round().long().unbind(dim=-1)
        obs = self.data.obs[episode, time]
        alive = (obs != 0).any(dim=-1, keepdim=True)
        obs = torch.where(alive, obs + self.obs_error * steps[:, None, None], 1e6)
        side = self.disagreement * torch.tensor([-1.0, 1.0])
        reward = (self.data.reward[episode, time] + self.reward_error * steps)[:, None] + side
        return Outlook(
            obs, reward, (self.data.continues[episode, time] + self.continue_error)[:, None] + side
        )


def deviation(values):
    """The standard deviation of (N, entries), as a vector."""
    return np.sqrt(values.double().var(dim=0, correction=0).sum().item())


def test_a_model_that_knows_it_all_makes_no_error_and_its_agents_agree(data):
    found = measure(Oracle(data), data, horizon=5)
    assert found["gpe"]["mean"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["gci"]["mean"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["probe_error"]["mean"]["value"] == pytest.approx(0, abs=1e-4)


def test_a_known_error_is_found_in_units_of_the_data(data):
    model = Oracle(data, obs_error=0.3, reward_error=0.2, continue_error=0.1)
    found = measure(model, data, horizon=5)["gpe"]
    alive = (data.obs != 0).any(-1)
    arrived = data.filled.clone()
    arrived[:, 0] = False
    steps = np.arange(1, 6)
    expected = {
        "obs": 0.3 * np.sqrt(OBS) * steps / deviation(data.obs[alive]),
        "reward": 0.2 * steps / deviation(data.reward[arrived][:, None]),
        "continue": 0.1 * np.ones(5) / deviation(data.continues[arrived][:, None]),
    }
    for part, curve in expected.items():
        # The error is the same in every window, so resampling changes nothing.
        for bound in ("value", "low", "high"):
            np.testing.assert_allclose(found["parts"][part]["per_horizon"][bound], curve, rtol=1e-5)
        assert found["parts"][part]["mean"]["value"] == pytest.approx(curve.mean(), rel=1e-5)
    whole = np.mean(list(expected.values()), axis=0)
    np.testing.assert_allclose(found["per_horizon"]["value"], whole, rtol=1e-5)
    assert found["mean"]["value"] == pytest.approx(whole.mean(), rel=1e-5)


def test_who_predicts_the_mean_is_measured_on_the_same_windows(data):
    """A model that predicts the mean of all records whatever happens errs just so much."""
    means = {
        "obs": data.obs[(data.obs != 0).any(dim=-1)].mean(dim=0),
        "reward": data.reward[:, 1:][data.filled[:, 1:]].mean(),
        "continues": data.continues[:, 1:][data.filled[:, 1:]].mean(),
    }

    class Mean(Oracle):
        def outlook(self, state):
            shape = state.h.shape[:2]
            return Outlook(*(value.expand(*shape, *value.shape) for value in means.values()))

    found = measure(Mean(data), data, horizon=4)
    for part, curve in found["gpe"]["parts"].items():
        assert curve["per_horizon"] == found["mean_predictor"]["parts"][part]["per_horizon"]


def test_a_known_disagreement_is_found_and_is_no_error_of_the_team(data):
    found = measure(Oracle(data, disagreement=0.4), data, horizon=5)
    arrived = data.filled.clone()
    arrived[:, 0] = False
    parts = {part: curve["mean"]["value"] for part, curve in found["gci"]["parts"].items()}
    assert parts["reward"] == pytest.approx(0.4 / deviation(data.reward[arrived][:, None]), rel=1e-5)
    assert parts["continue"] == pytest.approx(0.4 / deviation(data.continues[arrived][:, None]), rel=1e-5)
    assert parts["state"] == pytest.approx(
        0.4 * np.sqrt(STATE) / deviation(data.state[data.filled]), rel=1e-3
    )
    assert found["gpe"]["mean"]["value"] == pytest.approx(0, abs=1e-6)


def test_every_record_that_was_acted_on_starts_a_window_as_far_as_its_episode_goes(data):
    found = measure(Oracle(data), data, horizon=5)
    assert found["windows"] == [sum(LENGTHS[i] - k for i in (1, 3)) for k in range(1, 6)]


def test_the_dead_are_no_error(data):
    data.obs[:, 4:, 1] = 0  # the oracle would be a million off for them
    assert measure(Oracle(data), data, horizon=5)["gpe"]["parts"]["obs"]["mean"]["value"] == pytest.approx(0)


def test_the_interval_spans_what_episodes_differ_in(data):
    model = Oracle(data)
    data.reward[1] += 1.0 * data.filled[1]
    model.data = data._replace(reward=data.reward - torch.tensor([0.0, 1, 0, 0])[:, None])
    mean = measure(model, data, horizon=5)["gpe"]["parts"]["reward"]["mean"]
    assert mean["low"] < mean["value"] < mean["high"]
    assert mean["low"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data._replace(continues=torch.ones_like(data.continues)), "'continues' never changes"),
        (lambda data: data.select(slice(0, 1)), "longer than the horizon"),
        (lambda data: data._replace(filled=data.filled & (torch.arange(9) < 5)), "longer than the horizon"),
    ],
)
def test_play_that_can_not_be_measured_on_is_told(data, change, message):
    with pytest.raises(ValueError, match=message):
        measure(Oracle(data), change(data), horizon=5)


def test_a_world_model_is_measured_as_it_imagines(data):
    sizes = WorldModelConfig(16, 4, 4, 0.01, 1, 2, 1, wm_obs_fusion=True)
    torch.manual_seed(0)
    model = WorldModel(2, OBS, 5, sizes)

    def measured():
        torch.manual_seed(1)
        return measure(Measured(model), data, horizon=5)

    found = measured()
    assert found == measured()
    assert found["gci"]["parts"]["reward"]["mean"]["value"] == pytest.approx(
        0, abs=1e-6
    )  # a zero head agrees
    assert found["gci"]["parts"]["state"]["mean"]["value"] > 0.01
    zero = np.sqrt((data.reward[1::2, 1:][data.filled[1::2, 1:]] ** 2).mean().item())
    arrived = data.filled.clone()
    arrived[:, 0] = False
    first = found["gpe"]["parts"]["reward"]["per_horizon"]["value"][0]
    assert first == pytest.approx(zero / deviation(data.reward[arrived][:, None]), rel=1e-4)


def test_recorded_play_survives_the_disk_without_its_padding(data, tmp_path):
    path = tmp_path / "new" / "play.npz"
    save(path, data, {"episodes": 4})
    again, about = load(path)
    assert about == {"episodes": 4}
    for saved, read in zip(data, again, strict=True):
        assert saved.dtype == read.dtype
    assert torch.equal(data.filled, again.filled)
    for name in ("obs", "state", "actions", "reward"):
        assert torch.equal(getattr(data, name)[data.filled], getattr(again, name)[data.filled])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_a_file_of_something_else_is_told(tmp_path, content):
    path = tmp_path / "play.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no recorded play"):
        load(path)
