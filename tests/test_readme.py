"""What the README says can be typed works as it says."""

import logging
import re
import shutil
from pathlib import Path

import yaml

from learners import REGISTRY
from run import Session
from utils import combinations, config
from utils.config import Request, compose

README = (Path(__file__).parents[1] / "README.md").read_text()


class MyLearner:
    """The README's skeleton."""

    def __init__(self, mac, scheme, logger, args):
        self.seen = []

    def train(self, batch, t_env, episode_num):
        self.seen.append(batch["obs"].shape)


def test_the_recipe_for_an_algorithm_makes_one_that_runs(monkeypatch, tmp_path):
    (recipe,) = re.findall(r"```yaml\n# src/config/algs/mine.yaml\n(.*?)```", README, flags=re.DOTALL)
    shutil.copytree(config.CONFIG_DIR, tmp_path / "config")
    (tmp_path / "config" / "algs" / "mine.yaml").write_text(recipe)
    for module in (config, combinations):
        monkeypatch.setattr(module, "CONFIG_DIR", tmp_path / "config")
    monkeypatch.setitem(REGISTRY, yaml.safe_load(recipe)["learner"], MyLearner)
    foraging = {
        "env_args.key": "lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit": "10",
        "runner": "episode", "seed": "1",
    }  # fmt: skip
    settings = compose(Request("mine", "gymma", tuple(foraging.items())))
    combinations.check(settings)
    session = Session(settings, logging.getLogger("test"))
    runner, learner = session.parts.runner, session.parts.learner
    try:
        learner.train(runner.run(), runner.t_env, 1)
    finally:
        runner.close_env()
    assert learner.seen == [(1, 11, 2, 15)]
