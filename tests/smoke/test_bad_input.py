"""A request that can't be run is answered with one sentence, at once, and leaves nothing behind."""

import resource
import time

import pytest

from utils.config import available

SMAX = ["--config=qmix", "--env-config=smax", "with"]
GYMMA = ["--config=qmix", "--env-config=gymma", "with"]
CASES = {
    "algorithm": (["--config=qmxi", "--env-config=smax"], ["'qmxi'", "mean qmix?", *available("algs")]),
    "environment": (["--config=qmix", "--env-config=smx"], ["'smx'", "mean smax?", *available("envs")]),
    "environment by key": ([*SMAX, "env=smx"], ["smx", "--env-config", "smax"]),
    "another environment by key": ([*SMAX, "env=sc2"], ["env=sc2", "--env-config"]),
    "check of two": (["check", "sc2", "--env-config=smax"], ["--env-config=smax", "check ENV"]),
    "evaluation by name": (["evaluate", "results/x"], ["'evaluate'", "evaluate=DIRECTORY"]),
    "no algorithm": (["--env-config=smax"], ["--config", "qmix"]),
    "no environment": (["--config=qmix"], ["--env-config", "smax"]),
    "nothing": ([], ["--config"]),
    "map": ([*SMAX, "env_args.map_name=3mm"], ["3mm", "did you mean 3m"]),
    "map of another type": ([*SMAX, "env_args.map_name=3"], ["'3'"]),
    "misspelt key": ([*SMAX, "batchsize=8"], ["'batchsize'", "did you mean batch_size"]),
    "misspelt environment key": ([*SMAX, "env_args.mapname=8m"], ["did you mean env_args.map_name"]),
    "key without its group": ([*SMAX, "map_name=8m"], ["did you mean env_args.map_name"]),
    "mistyped number": ([*SMAX, "lr=fast"], ["lr must be a number above 0", "'fast'"]),
    "mistyped switch": ([*SMAX, "use_cuda=maybe"], ["use_cuda must be True or False"]),
    "negative size": ([*SMAX, "batch_size_run=-8"], ["must be a whole number from 1 on, not -8"]),
    "zero size": ([*SMAX, "t_max=0"], ["t_max must be a whole number from 1 on"]),
    "number of no kind": ([*SMAX, "epsilon_start={[1]:2}"], ["epsilon_start must be", "'{[1]:2}'"]),
    "broken number": ([*SMAX, "hidden_dim=1.5"], ["hidden_dim must be a whole number"]),
    "fraction": ([*SMAX, "gamma=1.01"], ["gamma must be a number from 0 to 1"]),
    "negative seed": ([*SMAX, "seed=-1"], ["seed must be a whole number from 0 to"]),
    "choice": ([*SMAX, "runner=vectr"], ["did you mean vector"]),
    "environment's number": ([*SMAX, "env_args.reward_scale=-1"], ["reward_scale", "positive"]),
    "leading dollar": ([*SMAX, "$lr=1"], ["'$lr'"]),
    "no with": (["--config=qmix", "--env-config=smax", "lr=1"], ["'with' is missing"]),
    "no value": ([*SMAX, "lr"], ["'lr'", "key=value"]),
    "unknown flag": (["--mango", *SMAX, "lr=1"], ["--mango"]),
    "MongoDB's address": (["--mongo=localhost", *SMAX, "lr=1"], ["MongoDB", "mongodb://"]),
    "MongoDB's port": (["--mongo=mongodb://u:secret@h:x/d", *SMAX, "lr=1"], ["MongoDB", "mongodb://"]),
    "no MongoDB": ([*SMAX, "require_mongo=True"], ["--mongo", "MONGO_URI"]),
    "MongoDB is away": (
        ["--mongo=mongodb://127.0.0.1:9/d", *SMAX, "require_mongo=True"],
        ["MongoDB at 127.0.0.1:9 doesn't answer"],
    ),
    "gymnasium id": ([*GYMMA, "env_args.key=lbforaging:Foraging-8x8-2p-3f-v99"], ["Foraging-8x8-2p-3f-v"]),
    "gymnasium id without its module": (
        [*GYMMA, "env_args.key=Foraging-8x8-2p-3f-v3"],
        ["'Foraging-8x8-2p-3f-v3'", "module in front"],
    ),
    "name of no folder": ([*SMAX, "name=a/b"], ["name='a/b'", "folder"]),
    "empty name": ([*SMAX, "name="], ["name=''", "folder"]),
    "gymnasium module": ([*GYMMA, "env_args.key=lbforagin:Foraging-8x8-2p-3f-v3"], ["lbforagin"]),
    "gymnasium module without a name": ([*GYMMA, "env_args.key=.a:b"], ["'.a'", "cannot be imported"]),
    "no gymnasium id": ([*GYMMA, "env_args.time_limit=5"], ["env_args.key"]),
    "no StarCraft II": (["--config=qmix", "--env-config=sc2"], ["StarCraft II", "smac", "check sc2", "smax"]),
    "results folder": ([*SMAX, "local_results_path=/dev/null/x"], ["/dev/null/x", "local_results_path"]),
    "individual rewards": ([*SMAX, "common_reward=False"], ["SMAX rewards the team as a whole"]),
    "returns that nothing standardises": (
        [*SMAX, "standardise_returns=True"],
        ["standardise_returns", "EPyMARL", "q_learner"],
    ),
    "observations of all where no critic sees them": (
        ["--config=qmix", "--env-config=smax", "with", "obs_individual_obs=True"],
        ["obs_individual_obs", "leave it out"],
    ),
    "rewards that no world model standardises": (
        ["--config=gawm_small", "--env-config=smax", "with", "standardise_rewards=True"],
        ["standardise_rewards", "leave it out"],
    ),
    "PPO on old play": (
        ["--config=mappo", "--env-config=smax", "with", "buffer=replay"],
        ["ppo_learner", "buffer=on_policy"],
    ),
    "last actions in imagination": (
        ["--config=gawm_small", "--env-config=smax", "with", "obs_last_action=True"],
        ["imagination", "obs_last_action must be False"],
    ),
    "a step's number where zeros tell the dead": (
        ["--config=gawm", "--env-config=sc2", "with", "env_args.obs_timestep_number=True"],
        ["obs_timestep_number must be False"],
    ),
    "individual rewards to mix": (
        [*GYMMA, "env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "common_reward=False"],
        ["mixer qmix"],
    ),
    "attention heads": (
        ["--config=gawm_small", "--env-config=smax", "with", "wm_fusion_heads=3"],
        ["wm_width=128", "wm_fusion_heads=3", "multiple"],
    ),
    "batch larger than the buffer": ([*SMAX, "buffer_size=4"], ["batch_size=32", "buffer_size=4"]),
    "nothing to resume": ([*SMAX, "resume=True"], ["no unfinished run", "resume=True"]),
    "no run directory": (["with", "resume=/nowhere"], ["/nowhere"]),
    "nothing to evaluate": (["evaluate=/nowhere"], ["/nowhere"]),
    "evaluation": (["evaluate=/nowhere", "episode=3"], ["did you mean episodes"]),
    "latents of no model": ([*SMAX, "mac=latent_mac"], ["mac=latent_mac", "learner=q_learner doesn't train"]),
    "recurrent policy on latents": (
        ["--config=gawm", "--env-config=smax", "with", "mac=latent_mac"],
        ["use_rnn must be False"],
    ),
    "many environments for the runner of one": (
        ["--config=mappo", "--env-config=smax", "with", "runner=episode", "batch_size_run=4"],
        ["runner=episode", "batch_size_run must be 1"],
    ),
    "a mixer without its settings": (
        ["--config=iql", "--env-config=smax", "with", "mixer=qmix"],
        ["mixer=qmix", "take --config=qmix"],
    ),
    "latents of one value": (
        ["--config=gawm", "--env-config=smax", "with", "wm_latent_classes=1"],
        ["wm_latent_classes must be a whole number from 2 on"],
    ),
    "unknown part": ([*SMAX, "learner=q_lerner"], ["'q_lerner'", "did you mean q_learner"]),
}


def _seconds() -> tuple[float, float]:
    """The time, and the processor time that this process's children have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), children.ru_utime + children.ru_stime


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_answered_with_one_sentence(command_line, case):
    words, expected = CASES[case]
    started, idle = _seconds()
    done = command_line.run(words)
    ended, busy = _seconds()
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in expected), done.stderr
    # Processor time is what an idle machine would take; on a loaded one, waiting for it is forgiven.
    assert busy - idle < 3.0
    assert ended - started < 60.0
    assert list(command_line.cwd.iterdir()) == []


def test_nothing_is_written(command_line):
    for assignment in ("batch_size=-1", "env_args.map_name=4mm", "learner=none"):
        assert command_line.train("qmix", "smax", assignment).returncode == 2
    assert not command_line.results.exists()


def test_help_lists_algorithms_and_environments(command_line):
    done = command_line.run(["--help"])
    assert done.returncode == 0
    assert "qmix" in done.stdout
    assert "smax" in done.stdout
