"""Every algorithm trains from its own file, with small sizes, in an environment that starts at once."""

import pytest
import yaml

from utils.config import CONFIG_DIR, available

TINY = {
    "t_max": 300, "test_interval": 300, "test_nepisode": 2, "learner_log_interval": 100, "log_interval": 100,
    "batch_size_run": 2, "batch_size": 4, "buffer_size": 16, "hidden_dim": 16, "steps_per_update": 50,
    "cpu_threads": 1, "seed": 1, "runner": "episode", "final_test_nepisode": 2,
    # GAWM
    "start_training_steps": 50, "wm_steps_per_update": 50, "wm_batch_size": 4, "wm_sequence_length": 8,
    "wm_latent_groups": 4, "wm_latent_classes": 4, "wm_fusion_layers": 1, "wm_fusion_heads": 2,
    "wm_width": 16, "policy_steps_per_round": 100, "imagination_episodes": 4, "imagination_starts": 16,
    "imagination_horizon": 5, "critic_width": 16,
}  # fmt: skip
FORAGING = ["env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit=20"]


@pytest.mark.parametrize("alg", available("algs"))
def test_an_algorithm_trains_from_its_file(command_line, load, alg):
    known = {**_keys("default.yaml"), **_keys(f"algs/{alg}.yaml")}
    changes = [f"{key}={value}" for key, value in TINY.items() if key in known]
    done = command_line.train(alg, "gymma", *FORAGING, *changes)
    assert done.returncode == 0, done.stderr
    (record,) = (command_line.results / "sacred" / alg).glob("*/1")
    metrics = load(record / "metrics.json")
    assert metrics["test_return_mean"]["steps"][0] == 0
    learnt = [name for name in metrics if name.endswith("grad_norm")]
    assert learnt, f"no update was logged, only {sorted(metrics)}"


def _keys(name: str) -> dict:
    return yaml.safe_load((CONFIG_DIR / name).read_text())
