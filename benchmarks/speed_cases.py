"""What is timed: each case builds its part as a run would, from the configuration files.

Shapes are (agents, length of an observation, actions); sizes of networks and batches are the algorithm's own.
Nothing heavy is imported before a case is built.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Shape = tuple[int, int, int]
SMALL, EIGHT_MARINES = (3, 75, 8), (8, 80, 14)
BASELINE: Shape = (5, 80, 11)
EPISODE_LENGTH = 50


@dataclass(frozen=True)
class Setup:
    """How runs are computed, and with which settings besides a case's own."""

    device: str = "cpu"
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is timed."""
        return self.device != "cpu"


@dataclass(frozen=True)
class Case:
    """Something to time."""

    call: Callable[[], float]  # does the work and returns how much of `unit` it did
    unit: str
    parts: tuple[tuple[Any, str], ...] = ()  # methods and modules that a profile names: (owner, attribute)
    dtype: Any = None  # what its matrix products multiply; torch's default if it is not given


def once(work: Callable[[], Any]) -> Callable[[], float]:
    """A call that does ``work`` once."""

    def call() -> float:
        work()
        return 1.0

    return call


def those_of(owner: Any, *names: str) -> tuple[tuple[Any, str], ...]:
    """Parts for a profile: the methods and modules of these names that ``owner`` has."""
    return tuple((owner, name) for name in names if hasattr(owner, name))


def quiet() -> logging.Logger:
    """Tells errors alone."""
    log = logging.getLogger("speed")
    log.setLevel(logging.ERROR)
    return log


# --- Learners on random episodes of a given shape


def configured(setup: Setup, alg: str, env_map: str, **changes: Any) -> dict[str, Any]:
    """The configuration of ``main.py --config=ALG --env-config=smax with key=value ...``."""
    from utils.config import Request, compose

    own = {"env_args.map_name": env_map, "seed": 0, "use_cuda": setup.on_gpu, **changes}
    assignments = tuple((key, str(value)) for key, value in own.items())
    return compose(Request(alg, "smax", assignments + setup.settings))


def make_learner(setup: Setup, alg: str, shape: Shape, n_episodes: int, **changes: Any) -> tuple[Any, Any]:
    """A learner, and random episodes of EPISODE_LENGTH steps for it."""
    import torch

    from components.episode_buffer import EpisodeBatch
    from components.transforms import OneHot
    from controllers import REGISTRY as CONTROLLERS
    from learners import REGISTRY as LEARNERS
    from run import Layout, arguments, make_scheme

    agents, obs, actions = shape
    args = arguments(configured(setup, alg, "3m", **changes), quiet())
    args.n_agents, args.obs_shape, args.n_actions, args.state_shape = agents, obs, actions, obs * 2
    args.episode_limit = EPISODE_LENGTH
    layout = Layout(make_scheme(args), {"agents": agents}, {"actions": ("actions_onehot", [OneHot(actions)])})
    mac = CONTROLLERS[args.mac](layout.complete_scheme(), layout.groups, args)
    logger = SimpleNamespace(log_stat=lambda key, value, t: None)
    learner = LEARNERS[args.learner](mac, layout.complete_scheme(), logger, args)
    if setup.on_gpu:
        learner.cuda()
    records = (n_episodes, EPISODE_LENGTH + 1)
    batch = EpisodeBatch(layout.scheme, layout.groups, *records, preprocess=layout.preprocess)
    ended = torch.zeros(*records, 1)
    ended[:, EPISODE_LENGTH - 1] = 1
    batch.update(
        {
            "obs": torch.randn(*records, agents, obs),
            "state": torch.randn(*records, obs * 2),
            "avail_actions": torch.ones(*records, agents, actions),
            "actions": torch.randint(actions, (*records, agents, 1)),
            "reward": torch.randn(*records, 1),
            "terminated": ended,
        }
    )
    return learner, batch.to(setup.device)


def world_model_update(setup: Setup, alg: str, shape: Shape, **changes: Any) -> Case:
    """Sampling windows, loss, gradient and optimiser step of a world model."""
    learner, batch = make_learner(setup, alg, shape, 40, **changes)
    learner.trajectories.insert_episode_batch(batch)
    model = learner.student
    return Case(
        once(lambda: learner._train_world_model(0)),
        "updates",
        (
            (learner.trajectories, "sample_windows"),
            *those_of(model, "observe", "embed", "prior_logits", "predict"),
            *of_the_scan(),
            (learner.wm_optimiser, "step"),
        ),
        learner.compute.dtype,
    )


def of_the_scan() -> tuple[tuple[Any, str], ...]:
    """The scan over time that a CPU has, forwards and backwards."""
    from modules.world_models.scan import Layers

    return those_of(Layers, "forward", "backward", "gradients")


def policy_round(setup: Setup, alg: str, shape: Shape, **changes: Any) -> Case:
    """Posterior over real episodes, imagination from their moments, PPO on what was imagined."""
    learner, batch = make_learner(setup, alg, shape, 40, **changes)
    learner.trajectories.insert_episode_batch(batch)
    behaviour, model = learner.behaviour, learner.world_model
    return Case(
        once(lambda: learner._train_policy(0)),
        "rounds",
        (
            (learner, "_draw_reality"),
            (model, "imagine"),
            (model, "predict"),
            (learner.mac, "run_agent"),
            (behaviour, "update"),
            (behaviour, "_targets"),
            (behaviour, "_critic_step"),
            (behaviour, "_actor_step"),
        ),
        learner.compute.dtype,
    )


def imagination(setup: Setup, alg: str, shape: Shape) -> Case:
    """Imagination alone."""
    learner, batch = make_learner(setup, alg, shape, 40)
    learner.trajectories.insert_episode_batch(batch)
    start, _ = learner._draw_reality()
    return Case(
        once(lambda: learner.imagine(start)),
        "rollouts",
        ((learner.world_model, "imagine"), (learner.world_model, "predict"), (learner.mac, "run_agent")),
    )


def ppo_phase(setup: Setup, alg: str, shape: Shape) -> Case:
    """PPO on imagined play alone."""
    learner, batch = make_learner(setup, alg, shape, 40)
    learner.trajectories.insert_episode_batch(batch)
    learner._train_policy(0)
    _, real = learner._draw_reality()
    behaviour = learner.behaviour
    return Case(
        once(lambda: behaviour.update(learner.pseudo.all(), real, 0)),
        "phases",
        ((behaviour, "_targets"), (behaviour, "_critic_step"), (behaviour, "_actor_step")),
    )


def window_sampling(setup: Setup, alg: str, shape: Shape) -> Case:
    """Windows of real play for one update."""
    learner, batch = make_learner(setup, alg, shape, 40)
    learner.trajectories.insert_episode_batch(batch)
    config = learner.config
    sample = learner.trajectories.sample_windows
    return Case(once(lambda: sample(config.wm_batch_size, config.wm_sequence_length)), "samples")


def baseline_update(setup: Setup, alg: str, n_episodes: int, **changes: Any) -> Case:
    """One call of a model-free learner."""
    learner, batch = make_learner(setup, alg, BASELINE, n_episodes, **changes)
    parts = those_of(learner, "_targets", "mixer", "_prepare", "_step")
    return Case(once(lambda: learner.train(batch, 0, 0)), "updates", (*parts, (learner.mac, "run_agent")))


def muon(setup: Setup, ours: bool) -> Case:
    """Muon's step on the matrices of the small world model: ours, or the library's for comparison."""
    import torch

    from components.optimisers import BatchedMuon

    learner, _ = make_learner(setup, "gawm_small", SMALL, 1)
    matrices = [p for p in learner.world_model.parameters() if p.ndim == 2 and min(p.shape) >= 32]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    if ours:
        return Case(once(BatchedMuon(matrices, lr=1e-3).step), "steps")
    library = torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return Case(once(library.step), "steps")


# --- Environments and whole runs


def random_play(_: Setup, battles: int, env_map: str = "8m", steps: int = 50) -> Case:
    """SMAX under a random policy."""
    from envs.smax import BatchedSMAX
    from utils.rl_utils import sample_categorical

    env = BatchedSMAX(range(battles), env_map)
    view = env.reset()

    def call() -> float:
        nonlocal view
        for _ in range(steps):
            view = env.step(sample_categorical(view.avail_actions.float())).view
        return steps * battles

    return Case(call, "env steps", ((env, "step"),))


def open_session(setup: Setup, alg: str, env_map: str, **changes: Any) -> Any:
    """A run's parts, ready to train."""
    from run import Session

    return Session(configured(setup, alg, env_map, **changes), quiet())


def recurrent_play(setup: Setup, battles: int, env_map: str = "8m") -> Case:
    """SMAX under MAPPO's recurrent policy, episodes recorded, nothing learnt."""
    runner = open_session(setup, "mappo", env_map, batch_size_run=battles).runner

    def call() -> float:
        before = runner.t_env
        while runner.t_env < before + 50 * battles:
            runner.run()
        return runner.t_env - before

    play = runner._play
    return Case(call, "env steps", ((play.actor, "act"), (play.env, "step"), (play.recorder, "add")))


def whole_run(setup: Setup, alg: str, env_map: str, steps: int, warm_up: int, **changes: Any) -> Case:
    """Collecting and learning as a run does, without tests; the rate counts environment steps."""
    from training import Training

    session = open_session(setup, alg, env_map, **changes)
    nothing: Any = None  # neither progress, checkpoints nor records
    training = Training(session.parts, session.args, session.logger, nothing, nothing, nothing)
    parts = session.parts

    def go_on(until: int) -> None:
        while training.t_env < until:
            training._advance()

    go_on(warm_up)

    def call() -> float:
        before = training.t_env
        go_on(before + steps)
        return training.t_env - before

    learning = those_of(parts.learner, "train", "_train_world_model", "_train_policy")
    return Case(call, "env steps", ((parts.runner, "run"), *learning))


def checkpoint(setup: Setup, records: int = 20000) -> Case:
    """Writing all that ``gawm_small`` needs to go on, with so many records of real play."""
    import torch

    learner, batch = make_learner(setup, "gawm_small", SMALL, records // (EPISODE_LENGTH + 1))
    learner.trajectories.insert_episode_batch(batch)
    learner._train_world_model(0)
    learner._train_policy(0)
    folder = tempfile.TemporaryDirectory()  # removed when the process ends

    def save() -> None:
        torch.save(learner.state_dict(), Path(folder.name, "state.th"))

    return Case(once(save), "checkpoints")


CASES: dict[str, Callable[[Setup], Case]] = {
    "wm_small": partial(world_model_update, alg="gawm_small", shape=SMALL),
    "wm_8m": partial(world_model_update, alg="gawm", shape=EIGHT_MARINES),
    "round_small": partial(policy_round, alg="gawm_small", shape=SMALL),
    "round_8m": partial(policy_round, alg="gawm", shape=EIGHT_MARINES),
    "wm_small_bf16": partial(world_model_update, alg="gawm_small", shape=SMALL, precision="bfloat16"),
    "wm_8m_bf16": partial(world_model_update, alg="gawm", shape=EIGHT_MARINES, precision="bfloat16"),
    "round_small_bf16": partial(policy_round, alg="gawm_small", shape=SMALL, precision="bfloat16"),
    "round_8m_bf16": partial(policy_round, alg="gawm", shape=EIGHT_MARINES, precision="bfloat16"),
    "round_8m_fresh": partial(policy_round, alg="gawm", shape=EIGHT_MARINES, pseudo_rounds=1),
    "round_8m_fresh_bf16": partial(
        policy_round, alg="gawm", shape=EIGHT_MARINES, pseudo_rounds=1, precision="bfloat16"
    ),
    "imagination_small": partial(imagination, alg="gawm_small", shape=SMALL),
    "ppo_small": partial(ppo_phase, alg="gawm_small", shape=SMALL),
    "sampling_small": partial(window_sampling, alg="gawm_small", shape=SMALL),
    "sampling_8m": partial(window_sampling, alg="gawm", shape=EIGHT_MARINES),
    "muon": partial(muon, ours=True),
    "muon_library": partial(muon, ours=False),
    "qmix": partial(baseline_update, alg="qmix", n_episodes=32),
    "mappo": partial(baseline_update, alg="mappo", n_episodes=8, epochs=4),
    "smax_8m_8": partial(random_play, battles=8),
    "smax_8m_64": partial(random_play, battles=64),
    "smax_8m_8_gru": partial(recurrent_play, battles=8),
    "smax_8m_64_gru": partial(recurrent_play, battles=64),
    "run_qmix_2s3z": partial(whole_run, alg="qmix", env_map="2s3z", steps=2000, warm_up=6000),
    "run_qmix_2s3z_seldom": partial(  # an update per eight episodes, as EPyMARL's parallel runner has it
        whole_run, alg="qmix", env_map="2s3z", steps=4000, warm_up=6000, steps_per_update=400
    ),
    "run_mappo_2s3z": partial(whole_run, alg="mappo", env_map="2s3z", steps=3000, warm_up=3000),
    "run_gawm_small_3m": partial(  # at the mean pace of its 50,000 steps
        whole_run,
        alg="gawm_small",
        env_map="3m",
        steps=600,
        warm_up=700,
        wm_steps_per_update=15,
        policy_steps_per_round=150,
        checkpoint_interval=10**9,
    ),
    "checkpoint": checkpoint,
}

FULL_CASES: dict[str, Callable[[Setup], Case]] = {
    "wm_reference_3": partial(world_model_update, alg="gawm", shape=(3, 48, 9)),
    "wm_reference_corridor": partial(world_model_update, alg="gawm", shape=(6, 156, 30)),
    "round_reference_3": partial(policy_round, alg="gawm", shape=(3, 48, 9)),
    "round_reference_corridor": partial(policy_round, alg="gawm", shape=(6, 156, 30)),
    **{f"wm_agents_{n}": partial(world_model_update, alg="gawm", shape=(n, 80, 14)) for n in (3, 6, 12, 27)},
    **{
        f"wm_length_{n}": partial(world_model_update, alg="gawm", shape=EIGHT_MARINES, wm_sequence_length=n)
        for n in (10, 40)
    },
    **{
        f"wm_batch_{n}": partial(world_model_update, alg="gawm", shape=EIGHT_MARINES, wm_batch_size=n)
        for n in (20, 80)
    },
    "run_gawm_8m": partial(whole_run, alg="gawm", env_map="8m", steps=50, warm_up=700),
}
