"""Recorded runs to ask questions about."""

from pathlib import Path

from records.journal import Journal

STEPS = (0, 1000, 2000)
DEFAULTS = {"env": "smax", "lr": 0.0005, "env_args": {"map_name": "3m"}}


def write_run(
    root: Path, alg: str = "qmix", task: str = "3m", seed: int = 0, status: str | None = "COMPLETED",
    metric: str = "test_battle_won_mean", steps: tuple[int, ...] = STEPS, scale: float = 1.0,
    versions: dict | None = None, commit: str = "abc123", **changes,
) -> Path:  # fmt: skip
    """Write a run whose curve rises by seed, and return its directory."""
    parent = root / "sacred" / alg / task
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / str(len(list(parent.iterdir())) + 1)
    directory.mkdir()
    config = DEFAULTS | {"name": alg, "seed": seed, "env_args": {"map_name": task}} | changes
    journal = Journal.create(
        directory, id=directory.name, name=alg, config=config, command=["--config", alg],
        host={"hostname": "here"}, git={"commit": commit, "dirty": False}, versions=versions or {},
    )  # fmt: skip
    for i, step in enumerate(steps):
        journal.metric(metric, step, scale * (0.3 * i + seed / 100))
    journal.metric("loss", steps[-1], 0.5)
    if status:
        journal.ended(status, {"best": 0.6})
    journal.close()
    return directory


def write_runs(root: Path) -> Path:
    """Write two algorithms on two maps with three seeds each."""
    for alg, scale in (("qmix", 1.0), ("mappo", 1.5)):
        for task in ("3m", "8m"):
            for seed in range(3):
                write_run(root, alg, task, seed, scale=scale)
    return root
