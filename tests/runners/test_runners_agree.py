"""The three runners on SMAX: the same seeds and actions give the learner the same batches."""

import copy

import pytest
import torch


class ObservantMac:
    """Takes one of the available actions, chosen by the observation and a recurrent counter."""

    def init_hidden(self, batch_size):
        self.hidden_states = torch.zeros(batch_size, 1)

    def reset_hidden(self, mask):
        self.hidden_states = self.hidden_states.masked_fill(mask.unsqueeze(1), 0)

    def select_actions(self, batch, t_ep, t_env, bs=slice(None), test_mode=False):
        avail = batch["avail_actions"][:, t_ep]
        wanted = (1000 * batch["obs"][:, t_ep].sum(-1).abs() + 7 * self.hidden_states).long()
        self.hidden_states = self.hidden_states + 1
        rank = (wanted % avail.sum(-1)).unsqueeze(-1)
        return ((avail.cumsum(-1) - 1 == rank) & (avail > 0)).float().argmax(-1)[bs]


SMAX = {"env": "smax", "env_args": {"map_name": "3m"}, "batch_size_run": 2, "test_nepisode": 2}


def assert_same_batch(a, b):
    assert a.scheme.keys() == b.scheme.keys()
    for key, value in a.data.transition_data.items():
        assert torch.equal(value, b[key]), key


@pytest.fixture
def make_smax(make_runner):
    return lambda runner: make_runner(ObservantMac(), runner=runner, **SMAX)


def test_vector_parallel_and_episode_runner_agree(make_smax):
    episode, vector, parallel = (make_smax(name) for name in ("episode", "vector", "parallel"))
    wanted, played = [episode.run() for _ in range(3)], []
    for _ in range(4):
        batch = vector.run()
        assert_same_batch(batch, parallel.run())
        played += [batch[0], batch[1]]
    assert vector.t_env == parallel.t_env
    # The episode runner's only slot has the seed of the others' first one: its episodes are among theirs.
    for ours in wanted:
        first = ours["obs"][0, 0]
        assert_same_batch(ours, next(e for e in played if torch.equal(e["obs"][0, 0], first)))


@pytest.mark.parametrize("name", ["episode", "vector", "parallel"])
def test_a_restored_runner_goes_on_identically(make_smax, name):
    runner, other = make_smax(name), make_smax(name)
    for _ in range(2):
        runner.run()
    other.load_state_dict(copy.deepcopy(runner.state_dict()))
    for _ in range(3):
        assert_same_batch(runner.run(), other.run())
        assert runner.t_env == other.t_env
    runner.run(test_mode=True)
    other.run(test_mode=True)
    assert_same_batch(runner.run(), other.run())
