"""The configuration of a run: default, environment, algorithm, command line; the later wins.

Nothing here imports torch, jax or sacred, so that a mistake is answered at once.
"""

import argparse
import ast
import copy
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.command_line import Parser
from utils.constraints import ConfigError, Constraints, hint, unknown

OTHER_FORMS = {  # what main.py takes instead of --config and --env-config
    "with resume=DIRECTORY": "go on with a run",
    "evaluate=DIRECTORY": "play its policy [checkpoint=best|last|STEP] [episodes=1000] [render=gif]",
    "record_dataset=DIRECTORY": "record play to measure world models on [checkpoint=best|last|STEP]"
    " [episodes=128] [dataset=FILE]",
    "evaluate_world_model=DIRECTORY": "measure the model of a run on it [checkpoint=last|STEP] [horizon=15]"
    " [dataset=FILE]",
    "check sc2|sc2v2": "tell what an environment needs and lacks",
}
CONFIG_DIR = Path(__file__).resolve().parents[1] / "config"
TASK = ("env", "env_args", "common_reward", "reward_scalarisation")  # keys that say what a run learns
WORDS = {"null": None, "none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Request:
    """What the command line asks for; ``assignments`` are the key=value pairs behind ``with``.

    Both names may be missing where a run to go on with is named: ``with resume=DIRECTORY``. ``mongo`` is the
    address of the MongoDB database that gets a copy of the record, None for no copy.
    """

    alg: str | None
    env: str | None
    assignments: tuple[tuple[str, str], ...]
    mongo: str | None = None


def parse_command_line(argv: list[str]) -> Request:
    """Read ``--config=ALG --env-config=ENV [--mongo=URI] with key=value ...``.

    Raises:
        ConfigError: it has another form, or names no configuration that exists.
    """
    parser = Parser(
        prog="main.py",
        usage="main.py --config=ALG --env-config=ENV with key=value ...",
        description="Train a multi-agent algorithm in an environment. Its keys stand in src/config: "
        "default.yaml, algs/ALG.yaml, envs/ENV.yaml.",
        epilog="what else main.py does:\n"
        + "\n".join(f"  {form}\n      {what}" for form, what in OTHER_FORMS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="ALG", help=f"algorithm: {', '.join(available('algs'))}")
    parser.add_argument("--env-config", metavar="ENV", help=f"environment: {', '.join(available('envs'))}")
    parser.add_argument(
        "--mongo",
        metavar="URI",
        default=os.environ.get("MONGO_URI"),
        help="copy the record to this MongoDB database, too (default: MONGO_URI of the environment)",
    )
    parser.add_argument("rest", nargs="*", metavar="with key=value ...", help="changes of the configuration")
    given = parser.parse_intermixed_args(argv)
    assignments = tuple(behind_with(given.rest, "main.py"))
    named = [value for key, value in assignments if key == "resume" and value.lower() not in WORDS]
    if named and given.config is None and given.env_config is None:
        return Request(None, None, assignments, given.mongo)
    return Request(
        alg=_known("algs", "algorithm", "--config", given.config),
        env=_known("envs", "environment", "--env-config", given.env_config),
        assignments=assignments,
        mongo=given.mongo,
    )


def behind_with(words: list[str], program: str) -> list[tuple[str, str]]:
    """What ``with key=value ...`` behind a program's own options assigns.

    Raises:
        ConfigError: it is not of that form.
    """
    if words and words[0] != "with":
        names = [re.split("[= ]", form)[0] for form in OTHER_FORMS]
        other = hint(words[0].partition("=")[0], names, cutoff=0.7)
        raise ConfigError(
            f"'with' is missing before {words[0]!r}; the form is: {program} ... with key=value"
            + (f", or main.py and one of: {', '.join(OTHER_FORMS)}." if other else ".")
        )
    pairs = []
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} behind 'with' is not of the form key=value.")
        pairs.append((key, value))
    return pairs


def available(folder: str) -> list[str]:
    """Return the names of the configuration files in ``src/config/<folder>``."""
    return sorted(path.stem for path in (CONFIG_DIR / folder).glob("*.yaml"))


def _known(folder: str, what: str, option: str, name: str | None) -> str:
    names = available(folder)
    if name is None:
        raise ConfigError(f"{option}=... is missing; there are: {', '.join(names)}.")
    if name not in names:
        raise unknown(what, name, names)
    return name


def compose(request: Request) -> dict[str, Any]:
    """Return the checked configuration of a run.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of its range.
    """
    config: dict[str, Any] = {}
    for name in ("default", f"envs/{request.env}"):
        config = _merge(config, load(CONFIG_DIR / f"{name}.yaml"))
    for layer in _algorithm(str(request.alg)):
        config = _merge(config, layer)
    for key, value in request.assignments:
        if key == "env" and value != config["env"]:
            names = ", ".join(available("envs"))
            raise ConfigError(f"env={value} can't be set by itself: choose one by --env-config: {names}.")
    return change(config, request.assignments)


def _algorithm(name: str, derived: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the files that make up an algorithm, the one that all others build on first.

    An algorithm's file may name another as its ``base``, and then holds only what differs; ``derived`` are
    those that build on this one.

    Raises:
        ConfigError: a base does not exist, or builds on what is derived from it.
    """
    content = load(CONFIG_DIR / "algs" / f"{name}.yaml")
    base = content.pop("base", None)
    if base is None:
        return [content]
    if base not in available("algs"):
        raise unknown(f"algorithm for algs/{name}.yaml to build on,", base, available("algs"))
    if base in (name, *derived):
        raise ConfigError(f"The base in algs/{name}.yaml, {base}, builds on {name} itself.")
    return [*_algorithm(base, (name, *derived)), content]


def change(config: dict[str, Any], assignments: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the checked configuration ``config`` with values replaced.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of its range.
    """
    config = copy.deepcopy(config)
    constraints = Constraints(load(CONFIG_DIR / "constraints.yaml"))
    defaults = flatten(config)
    for path, raw in assignments:
        default = _default_of(path, defaults)
        _assign(config, path, constraints.check(path, read_value(raw, default), default))
    for path, value in flatten(config).items():
        if constraints.names(path):
            _assign(config, path, constraints.check(path, value, defaults.get(path)))
    return config


def may_change() -> set[str]:
    """Return the paths whose values a resumed run may change."""
    return set(load(CONFIG_DIR / "constraints.yaml")["resumable"])


class _Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, which YAML 1.1 takes for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds.

    Raises:
        ConfigError: the file is no YAML mapping, or a key can't be stored in a record.
    """
    where = path.relative_to(CONFIG_DIR) if path.is_relative_to(CONFIG_DIR) else path
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must hold keys with values.")
    if path.stem != "constraints":
        _check_keys(content, str(where))
    return content


def _check_keys(content: Mapping[Any, Any], where: str) -> None:
    """Refuse the keys on which Sacred's records break."""
    for key, value in content.items():
        if not isinstance(key, str) or "." in key or key.startswith("$"):
            raise ConfigError(f"The key {key!r} in {where} must be a text without dots or leading '$'.")
        if isinstance(value, Mapping):
            _check_keys(value, where)


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``lower`` overwritten by ``upper``, groups of keys merged key by key."""
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by their paths, such as ``env_args.map_name``; an empty group stays as it is."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _default_of(path: str, defaults: Mapping[str, Any]) -> Any:
    """Return the value that ``path`` has before the command line; None for a new key of an empty group."""
    if path in defaults and defaults[path] != {}:
        return defaults[path]
    groups = [path.rsplit(".", depth)[0] for depth in range(1, path.count(".") + 1)]
    if any(defaults.get(group) == {} for group in groups):
        if any(part.startswith("$") or not part for part in path.split(".")):
            raise ConfigError(f"The key {path!r} has an empty part or one that starts with '$'.")
        return None
    members = [known for known in defaults if known.startswith(f"{path}.")]
    if members or defaults.get(path) == {}:
        example = members[0] if members else f"{path}.key"
        raise ConfigError(f"{path} is a group of keys; set one of them, like {example}=...")
    raise ConfigError(f"There is no key {path!r}{_hint_path(path, list(defaults))}.")


def _hint_path(path: str, known: list[str]) -> str:
    """Return a hint at the nearest path: the one that lacks only its group, or one of the same group."""
    group, dot, _ = path.rpartition(".")
    same_leaf = [name for name in known if name.endswith(f".{path}")]
    same_group = [name for name in known if name.rpartition(".")[0] == group]
    cutoff = 0.8 if dot else 0.6  # a group in common makes paths alike
    return hint(path, same_leaf, cutoff=0) or hint(path, same_group or known, cutoff=cutoff)


def read_value(raw: str, default: Any = None) -> Any:
    """Return the value ``raw`` spells: a text where the default is one, else a Python or YAML literal."""
    value: Any = raw
    if raw.lower() in WORDS:
        value = WORDS[raw.lower()]
    else:
        try:
            value = ast.literal_eval(raw)
        except (ValueError, SyntaxError, TypeError):
            return raw
    if isinstance(default, str) and value is not None and not isinstance(value, str):
        return raw
    return list(value) if isinstance(value, tuple) else value  # as a record gives it back


def _assign(config: dict[str, Any], path: str, value: Any) -> None:
    *groups, leaf = path.split(".")
    for group in groups:
        config = config.setdefault(group, {})
    config[leaf] = value


def map_name(config: Mapping[str, Any]) -> str:
    """Return the name of the task within the environment, fit for a folder's name."""
    env_args = config["env_args"]
    name = env_args.get("map_name") or env_args.get("key") or config["env"]
    return re.sub(r"[^\w.-]+", "_", str(name))


def run_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of the run directories 1, 2, 3, ... of this algorithm on this task."""
    return Path(config["local_results_path"], "sacred", config["name"], map_name(config))
