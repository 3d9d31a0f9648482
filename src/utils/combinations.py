"""Values that are good each by itself and can't be used together, told before anything is built."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from utils.config import CONFIG_DIR, load
from utils.constraints import ConfigError

Config = Mapping[str, Any]
TEAM_REWARD = {  # environments that reward the team as a whole
    "smax": "SMAX", "sc2": "StarCraft II", "sc2v2": "StarCraft II", "smaclite": "SMAClite",
}  # fmt: skip
FRESH_PLAY = {"ppo_learner": "PPO learns from fresh episodes", "gawm_learner": "it keeps its own replay"}
OURS = {"ppo_learner", "q_learner", "gawm_learner", "basic_mac", "latent_mac"}
POLICIES = frozenset({"soft_policies", "multinomial"})  # action selectors that draw from a policy
OFF_POLICY = POLICIES | {"committed_policies"}  # and those whose play is not quite the policy's
SELECTORS = OFF_POLICY | {"epsilon_greedy"}
OUTPUTS = {"q", "pi_logits"}
ACTS_BY = {  # what the agents of a learner put out, and what makes actions of it
    "q_learner": ("q", frozenset({"epsilon_greedy"})),
    "ppo_learner": ("pi_logits", POLICIES),
    "gawm_learner": ("pi_logits", OFF_POLICY),
}
FOR_EPYMARL = ("optim_alpha", "add_value_last_step", "standardise_returns", "mask_before_softmax")


def check(config: Config) -> None:
    """Raise ConfigError at the first combination that can't be run."""
    for rule in RULES:
        objection = rule(config)
        if objection is not None:
            raise ConfigError(objection)


def _name(config: Config) -> str | None:
    if re.fullmatch(r"[\w+.*-]+( [\w+.*-]+)*", config["name"]) and config["name"] not in (".", ".."):
        return None
    return f"name={config['name']!r} can't be a folder's name: take letters, digits, and any of _ - + * ."


def _individual_rewards(config: Config) -> str | None:
    if config["common_reward"]:
        return None
    if config["env"] in TEAM_REWARD:
        return f"{TEAM_REWARD[config['env']]} rewards the team as a whole, so common_reward must be True."
    if config.get("mixer") is not None:
        return f"The mixer {config['mixer']} mixes into a common reward, so common_reward must be True."
    return None


def _replay(config: Config) -> str | None:
    batch, kept = config["batch_size"], config["buffer_size"]
    if config["buffer"] == "replay" and batch > kept:
        return f"batch_size={batch} episodes can't be drawn from a buffer of buffer_size={kept}."
    return None


def _fresh_play(config: Config) -> str | None:
    learner = config["learner"]
    if learner in FRESH_PLAY and config["buffer"] != "on_policy":
        return f"learner={learner} needs buffer=on_policy: {FRESH_PLAY[learner]}."
    return None


def _without_effect(config: Config) -> str | None:
    if not {config["learner"], config["mac"]} <= OURS:
        return None
    defaults = load(CONFIG_DIR / "default.yaml")
    for key in FOR_EPYMARL:
        if config[key] != defaults[key]:
            return (
                f"{key} is read by components written for EPyMARL alone: it changes nothing for"
                f" learner={config['learner']} and mac={config['mac']}, so leave it out."
            )
    if config["learner"] == "gawm_learner" and config["standardise_rewards"]:
        return "standardise_rewards changes nothing for a world model (learner=gawm_learner): leave it out."
    if config["obs_individual_obs"] and config.get("critic_type") != "cv_critic":
        return "obs_individual_obs is for a centralised critic (critic_type=cv_critic): leave it out."
    return None


def _mixer(config: Config) -> str | None:
    if config.get("mixer") == "qmix" and "mixing_embed_dim" not in config:
        return "mixer=qmix has settings of its own, such as mixing_embed_dim: take --config=qmix."
    return None


def _hypernet_layers(config: Config) -> str | None:
    layers = config.get("hypernet_layers", 1)
    return None if layers in (1, 2) else f"hypernet_layers must be 1 or 2, not {layers}."


def _outputs(config: Config) -> str | None:
    if config["learner"] not in ACTS_BY:
        return None
    outputs, selectors = ACTS_BY[config["learner"]]
    if config["agent_output_type"] in OUTPUTS - {outputs}:
        return f"learner={config['learner']} learns from agents with agent_output_type={outputs}."
    if config["action_selector"] in SELECTORS - selectors:
        return (
            f"learner={config['learner']} needs action_selector={' or '.join(sorted(selectors))},"
            f" not {config['action_selector']}."
        )
    return None


def _attention_heads(config: Config) -> str | None:
    width, heads = config.get("wm_width", 1), config.get("wm_fusion_heads", 1)
    if width % heads:
        return f"wm_width={width} can't be split over wm_fusion_heads={heads}: it must be a multiple of them."
    return None


def _windows(config: Config) -> str | None:
    window, kept = config.get("wm_sequence_length", 1), config.get("replay_capacity", 1)
    if window > kept:
        return f"wm_sequence_length={window} steps can't be drawn from replay_capacity={kept}."
    return None


def _imagined_policy(config: Config) -> str | None:
    if config["learner"] == "gawm_learner" and config["obs_last_action"]:
        return "A policy learnt in imagination sees observations alone, so obs_last_action must be False."
    return None


def _step_number(config: Config) -> str | None:
    if config["learner"] == "gawm_learner" and config["env_args"].get("obs_timestep_number"):
        return (
            "A world model takes agents that observe nothing but zeros for dead, so"
            " env_args.obs_timestep_number must be False."
        )
    return None


def _latent_policy(config: Config) -> str | None:
    if config["mac"] != "latent_mac":
        return None
    if config["learner"] != "gawm_learner":
        return f"mac=latent_mac acts on a world model, which learner={config['learner']} doesn't train."
    if config["use_rnn"]:
        return "mac=latent_mac acts on the recurrent state of a world model, so use_rnn must be False."
    return None


RULES: list[Callable[[Config], str | None]] = [
    _name,
    _individual_rewards,
    _replay,
    _fresh_play,
    _without_effect,
    _outputs,
    _mixer,
    _hypernet_layers,
    _attention_heads,
    _windows,
    _imagined_policy,
    _step_number,
    _latent_policy,
]
