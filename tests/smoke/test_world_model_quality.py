"""Recording held-out play and measuring a world model on it, from the command line."""

TASK = "lbforaging:Foraging-5x5-2p-1f-v3"
TINY = [
    f"env_args.key={TASK}", "env_args.time_limit=25", "runner=episode", "t_max=200", "test_interval=200",
    "test_nepisode=2", "final_test_nepisode=2", "hidden_dim=16", "cpu_threads=1", "seed=1",
    "start_training_steps=50",
    "wm_steps_per_update=50", "wm_batch_size=4", "wm_sequence_length=8", "wm_latent_groups=4",
    "wm_latent_classes=4", "wm_fusion_layers=1", "wm_fusion_heads=2", "wm_width=16",
    "policy_steps_per_round=100", "imagination_episodes=4", "imagination_starts=16",
    "imagination_horizon=5", "critic_width=16",
]  # fmt: skip


def test_held_out_play_is_recorded_once_and_a_world_model_measured_on_it(command_line, load):
    done = command_line.train("gawm_small", "gymma", *TINY)
    assert done.returncode == 0, done.stderr
    (run,) = (command_line.results / "sacred" / "gawm_small").glob("*/1")

    early = command_line.run([f"evaluate_world_model={run}"])
    assert early.returncode == 2
    assert "record_dataset=DIRECTORY" in early.stderr

    recorded = command_line.run([f"record_dataset={run}", "episodes=16"])
    assert recorded.returncode == 0, recorded.stderr
    (dataset,) = (command_line.results / "datasets").glob("*/*.npz")
    assert "records of 16 episodes" in recorded.stdout

    again = command_line.run([f"record_dataset={run}", "episodes=16"])
    assert again.returncode == 2
    assert "is there already" in again.stderr

    measured = command_line.run([f"evaluate_world_model={run}", "horizon=5"])
    assert measured.returncode == 0, measured.stderr
    assert "GPE" in measured.stdout
    result = load(run / "world_model_quality.json")
    assert (result["alg"], result["horizons"]) == ("gawm_small", [1, 2, 3, 4, 5])
    assert result["dataset"]["trained_episodes"] == 8
    assert str(run) == result["dataset"]["run"]
    for name in ("gpe", "gci"):
        mean = result[name]["mean"]
        assert 0 < mean["low"] <= mean["value"] <= mean["high"]
    assert (run / "world_model_quality.png").stat().st_size > 10_000

    policy_alone = command_line.run([f"evaluate_world_model={run}", "checkpoint=best", f"dataset={dataset}"])
    assert policy_alone.returncode == 2
    assert "policy alone" in policy_alone.stderr
