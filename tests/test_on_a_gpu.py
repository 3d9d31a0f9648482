"""Runs on a stand-in for a GPU: nothing is left behind on the CPU, and the same is learnt as there."""

import copy
import logging
from contextlib import nullcontext

import pytest
import speed_cases
import torch
from torch import nn

import gpu_stand_in
import run
from components.optimisers import MuonAdam
from records.journal import Journal
from utils.config import Request, compose
from utils.cuda_graphs import WARM_UP

SIZES = {
    "env_args.key": "lbforaging:Foraging-5x5-2p-1f-v3", "env_args.time_limit": 10, "runner": "episode",
    "seed": 3, "t_max": 60, "test_interval": 60, "test_nepisode": 1, "final_test_nepisode": 1,
    "hidden_dim": 8, "learner_log_interval": 20,
}  # fmt: skip
# Without Muon, which from so little data makes as much of a last bit as of all else; its test is below.
WORLD_MODEL = {
    "start_training_steps": 30, "wm_steps_per_update": 15, "wm_batch_size": 2, "wm_sequence_length": 4,
    "wm_latent_groups": 4, "wm_latent_classes": 4, "wm_width": 32, "wm_fusion_heads": 2, "critic_width": 8,
    "policy_steps_per_round": 30, "imagination_episodes": 2, "imagination_starts": 4,
    "imagination_horizon": 2, "epochs": 1, "minibatches": 2, "error_predictor_width": 8,
    "candidate_predictions": 2, "wm_muon_lr": 0,
}  # fmt: skip
CASES = {
    "qmix": {"batch_size": 2, "buffer_size": 8, "steps_per_update": 20, "buffer_cpu_only": False},
    "mappo": {"steps_per_update": 30, "epochs": 2},
    "gawm_small": WORLD_MODEL,
    "mamba_small": WORLD_MODEL,
    "mag_small": WORLD_MODEL,
}


@pytest.fixture(autouse=True)
def _cuda(monkeypatch):
    gpu_stand_in.be_cuda(monkeypatch)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(alg, device, resumed=None, **changes) -> directory of a short run, maybe one that goes on."""
    arguments = run.arguments

    def on(device):
        def changed(config, log):
            args = arguments(config, log)
            args.device, args.use_cuda = device, device != "cpu"
            return args

        return changed

    def go(alg, device, resumed=None, **changes):
        monkeypatch.setattr(run, "arguments", on(device))
        settings = {**SIZES, **CASES[alg], **changes}
        config = compose(Request(alg, "gymma", tuple((key, str(value)) for key, value in settings.items())))
        directory = tmp_path / f"{device}-{config['t_max']}-{resumed is not None}"
        directory.mkdir()
        checkpoint = run.newest_checkpoint(resumed, logging.getLogger("test")) if resumed else None
        there = nullcontext() if device == "cpu" else gpu_stand_in.StandIn()
        with there, run.Session(config, logging.getLogger("test"), checkpoint) as session:
            session.train(Journal.create(directory, config=config), directory)
            for parameter in session.parts.mac.parameters():
                assert parameter.device.type == device
        return directory

    return go


def learnt(directory):
    """All tensors of networks in the newest checkpoint, by their names."""
    state = run.CheckpointStore(directory / run.CHECKPOINTS).newest().load("learner")
    return {
        f"{part}.{name}": tensor
        for part, content in state.items()
        if isinstance(content, dict)
        for name, tensor in content.items()
        if isinstance(tensor, torch.Tensor)
    }


@pytest.mark.parametrize("alg", CASES)
def test_on_a_gpu_the_same_is_learnt_and_goes_on(train, alg):
    here, there = (train(alg, device) for device in ("cpu", gpu_stand_in.NAME))
    assert len(learnt(here)) > 5
    torch.testing.assert_close(learnt(there), learnt(here), rtol=1e-3, atol=1e-5)
    longer = train(alg, gpu_stand_in.NAME, resumed=there, t_max=90)
    assert any(not torch.equal(learnt(longer)[name], tensor) for name, tensor in learnt(there).items())


@pytest.mark.parametrize("alg", ["gawm_small", "mamba_small", "mag_small"])
def test_as_cuda_graphs_the_same_is_learnt(train, alg, monkeypatch, caplog):
    monkeypatch.setattr("utils.cuda_graphs.WARM_UP", 1)
    played = []
    replay = gpu_stand_in.Graph.replay
    monkeypatch.setattr(gpu_stand_in.Graph, "replay", lambda graph: played.append(graph) or replay(graph))
    here, there = (train(alg, device, cuda_graphs=True) for device in ("cpu", gpu_stand_in.NAME))
    torch.testing.assert_close(learnt(there), learnt(here), rtol=1e-3, atol=1e-5)
    assert len(set(played)) == 3  # a model's gradients, imagination, a policy's gradients
    assert len(played) > 6
    assert caplog.messages.count("cuda_graphs=True has no effect: there is no GPU") == 1


@pytest.mark.parametrize(("case", "share"), [("wm_small", 0.2), ("imagination_small", 0.05)])
def test_cuda_graphs_are_told_a_gpu_at_once(case, share, monkeypatch):
    monkeypatch.setattr(run, "_device", lambda *_: gpu_stand_in.NAME)
    sizes = (("wm_batch_size", "2"), ("imagination_starts", "20"), ("imagination_episodes", "2"))
    launches = {}
    with gpu_stand_in.StandIn():
        for graphs in ("False", "True"):
            setup = speed_cases.Setup(gpu_stand_in.NAME, (*sizes, ("cuda_graphs", graphs)))
            made = speed_cases.CASES[case](setup)
            for _ in range(WARM_UP + 1):
                made.call()
            before = gpu_stand_in.StandIn.launches
            made.call()
            launches[graphs] = gpu_stand_in.StandIn.launches - before
    assert launches["True"] < share * launches["False"]


def test_on_a_gpu_muon_moves_matrices_as_on_the_cpu():
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(40, 64), nn.Linear(64, 32))
    gradients = [torch.randn(p.shape) for p in here.parameters()]
    with gpu_stand_in.StandIn():
        there = gpu_stand_in.move(copy.deepcopy(here))
        for network in (here, there):
            optimiser = MuonAdam(network, lr=0.1, muon_lr=0.1, eps=1e-5, input_layer=network[0])
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p.grad = gradient.to(p.device)
            optimiser.step()
        moved = [p.detach().cpu() for p in there.parameters()]
    torch.testing.assert_close(moved, [p.detach() for p in here.parameters()], rtol=1e-3, atol=1e-5)


def test_tensors_of_two_devices_do_not_meet_on_the_stand_in():
    with gpu_stand_in.StandIn():
        there = torch.ones(2, device=gpu_stand_in.NAME)
        assert there.device.type == gpu_stand_in.NAME
        assert (there + 1).cpu().tolist() == [2, 2]
        with pytest.raises(RuntimeError, match="all tensors on the same device"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
