"""Every algorithm trains from its own file, with small sizes, in an environment that starts at once."""

import pytest

from utils.config import Request, available, compose

TINY = {
    "t_max": 300, "test_interval": 300, "test_nepisode": 2, "learner_log_interval": 100, "log_interval": 100,
    "batch_size": 4, "buffer_size": 16, "hidden_dim": 16, "steps_per_update": 50,
    "cpu_threads": 1, "seed": 1, "runner": "episode", "final_test_nepisode": 2,
    # GAWM and its relatives
    "start_training_steps": 50, "wm_steps_per_update": 50, "wm_batch_size": 4, "wm_sequence_length": 8,
    "wm_latent_groups": 4, "wm_latent_classes": 4, "wm_fusion_layers": 1, "wm_fusion_heads": 2,
    "wm_width": 16, "policy_steps_per_round": 100, "imagination_episodes": 4, "imagination_starts": 16,
    "imagination_horizon": 5, "critic_width": 16, "error_predictor_width": 16, "candidate_predictions": 2,
}  # fmt: skip
FORAGING = ["env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit=20"]


LOSSES = {"mamba": "wm_action_loss", "mag": "error_predictor_loss"}
ABLATED = ["reward_trend_sigma=0", "pseudo_rounds=1", "mac=latent_mac", "use_rnn=False"]


def _tiny(alg: str) -> list[str]:
    known = compose(Request(alg, "gymma", ()))
    return [f"{key}={value}" for key, value in TINY.items() if key in known]


@pytest.mark.parametrize("alg", available("algs"))
def test_an_algorithm_trains_from_its_file(command_line, load, alg):
    done = command_line.train(alg, "gymma", *FORAGING, *_tiny(alg))
    assert done.returncode == 0, done.stderr
    (record,) = (command_line.results / "sacred" / alg).glob("*/1")
    metrics = load(record / "metrics.json")
    assert metrics["test_return_mean"]["steps"][0] == 0
    learnt = [name for name in metrics if name.endswith("grad_norm")]
    assert learnt, f"no update was logged, only {sorted(metrics)}"
    for family, loss in LOSSES.items():
        assert loss in metrics or not alg.startswith(family)


@pytest.mark.parametrize("alg", ["iql", "ippo", "mappo"])
def test_agents_are_rewarded_each_for_themselves(command_line, load, alg):
    done = command_line.train(alg, "gymma", *FORAGING, *_tiny(alg), "common_reward=False")
    assert done.returncode == 0, done.stderr
    (record,) = (command_line.results / "sacred" / alg).glob("*/1")
    metrics = load(record / "metrics.json")
    each = [metrics[f"test_agent_{i}_return_mean"]["values"] for i in range(2)]
    assert metrics["test_return_mean"]["values"] == pytest.approx([a + b for a, b in zip(*each, strict=True)])
    assert {"test_total_return_mean", "final_last_return_mean"} <= set(metrics)


@pytest.mark.parametrize(
    ("alg", "setting", "needs"),
    [
        ("qmix", "action_selector=soft_policies", "action_selector=epsilon_greedy"),
        ("mappo", "action_selector=epsilon_greedy", "action_selector=multinomial or soft_policies"),
        ("mappo", "agent_output_type=q", "agent_output_type=pi_logits"),
    ],
)
def test_what_a_learner_can_not_learn_from_is_refused(command_line, alg, setting, needs):
    done = command_line.train(alg, "gymma", *FORAGING, *_tiny(alg), setting)
    assert done.returncode == 2
    assert needs in done.stderr
    assert not (command_line.results / "sacred").exists()


def test_an_argument_that_an_environment_does_not_know_is_refused_by_its_processes(command_line):
    settings = [word for word in _tiny("iql") if not word.startswith("runner=")]
    done = command_line.train("iql", "gymma", *FORAGING, *settings, "env_args.kwargs.sigt=2")
    assert done.returncode == 2, done.stderr
    assert "sigt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (command_line.results / "sacred").exists()


def test_gawm_trains_without_its_parts(command_line, load):
    """No reward trend, no buffer of imagined play, a policy on latents: by configuration alone."""
    done = command_line.train("gawm", "gymma", *FORAGING, *_tiny("gawm"), *ABLATED)
    assert done.returncode == 0, done.stderr
    (record,) = (command_line.results / "sacred" / "gawm").glob("*/1")
    assert "pg_loss" in load(record / "metrics.json")
