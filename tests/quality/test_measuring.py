"""From a checkpoint and recorded play to the files with the results, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch

from modules.world_models.world_model import WorldModel, WorldModelConfig
from quality import measuring
from quality.held_out import save
from utils.constraints import ConfigError

SIZES = {
    "wm_width": 16, "wm_latent_groups": 4, "wm_latent_classes": 4, "wm_uniform_mix": 0.01,
    "wm_fusion_layers": 1, "wm_fusion_heads": 2, "wm_head_layers": 1, "wm_obs_fusion": True,
}  # fmt: skip
TASK = {
    "env": "smax", "env_args": {"map_name": "3m"}, "common_reward": True, "reward_scalarisation": "sum",
}  # fmt: skip
CONFIG = {"name": "gawm_small", "seed": 3, **TASK, **SIZES}


@pytest.fixture
def measured_on(data, tmp_path, monkeypatch):
    """Measures a checkpoint, which may be changed, on recorded play of a task."""

    def run(task=TASK, config=CONFIG, **changes):
        save(tmp_path / "play.npz", data, {**task, "n_actions": 5})
        torch.manual_seed(0)
        model = WorldModel(2, 3, 5, WorldModelConfig(**SIZES))
        checkpoint = {
            "path": tmp_path / "100",
            "step": 100,
            "is_complete": True,
            "load": lambda part: {"world_model": model.state_dict()},
        }
        store = SimpleNamespace(find=lambda which: SimpleNamespace(**{**checkpoint, **changes}))
        monkeypatch.setattr(measuring, "CheckpointStore", lambda folder: store)
        return measuring.evaluate(tmp_path, "last", 5, config, tmp_path / "play.npz")

    return run


def test_results_are_saved_as_json_and_picture_and_the_same_ones_again(measured_on, tmp_path):
    line = measured_on()
    result = json.loads((tmp_path / "world_model_quality.json").read_text())
    assert (result["alg"], result["seed"], result["step"]) == ("gawm_small", 3, 100)
    assert result["dataset"]["env_args"] == {"map_name": "3m"}
    for name in ("gpe", "gci"):
        assert f"{name.upper()} {result[name]['mean']['value']:.3f}" in line
        assert len(result[name]["per_horizon"]["value"]) == 5
    assert (tmp_path / "world_model_quality.png").read_bytes().startswith(b"\x89PNG")
    assert measured_on() == line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": {**TASK, "env_args": {"map_name": "8m"}}}, "recorded with env_args .*8m"),
        ({"task": {**TASK, "env": "gymma"}}, "recorded with env gymma"),
        ({"task": {**TASK, "reward_scalarisation": "mean"}}, "recorded with reward_scalarisation mean"),
        ({"load": lambda part: {"critic": {}}}, "gawm_small learns without one"),
        ({"is_complete": False}, "policy alone"),
        ({"config": {**CONFIG, "wm_width": "wide"}}, "wm_width"),
    ],
)
def test_what_can_not_be_measured_is_told_in_a_sentence(measured_on, change, message):
    with pytest.raises(ConfigError, match=message):
        measured_on(**change)
