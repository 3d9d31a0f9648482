"""Which values keys may take: those of their default's type, and what config/constraints.yaml says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


class ConfigError(ValueError):
    """A configuration or command line that can't be run; its text is one sentence for the user."""


@dataclass(frozen=True)
class Kind:
    """A set of numbers: all, or whole ones only, between two bounds."""

    words: str
    whole: bool
    low: float
    high: float = math.inf
    open_low: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high and math.isfinite(value)


KINDS = {
    "counts": Kind("a whole number from 1 on", whole=True, low=1),
    "several": Kind("a whole number from 2 on", whole=True, low=2),
    "whole": Kind("a whole number from 0 on", whole=True, low=0),
    "seeds": Kind("a whole number from 0 to 2**32 - 1", whole=True, low=0, high=2**32 - 1),
    "positive": Kind("a number above 0", whole=False, low=0, open_low=True),
    "not_negative": Kind("a number from 0 on", whole=False, low=0),
    "fractions": Kind("a number from 0 to 1", whole=False, low=0, high=1),
}
ANY_WHOLE = Kind("a whole number", whole=True, low=-math.inf)
ANY_NUMBER = Kind("a number", whole=False, low=-math.inf)


class Constraints:
    """The table of config/constraints.yaml, applied to one value at a time."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._kinds = {path: KINDS[group] for group in KINDS for path in table.get(group, [])}
        self._choices: dict[str, list[str]] = table.get("choices", {})
        self._nullable = set(table.get("nullable", []))

    def names(self, path: str) -> bool:
        """Tell whether the table says more about ``path`` than the type of its default does."""
        return path in self._kinds or path in self._choices

    def check(self, path: str, value: Any, default: Any) -> Any:
        """Return ``value``, a whole number given as ``1e6`` made an int.

        Raises:
            ConfigError: it has another type than ``default``, or the table forbids it.
        """
        if value is None:
            if default is None or path in self._nullable:
                return None
            raise ConfigError(f"{path} must not be null.")
        if path in self._choices:
            return _check_choice(path, value, self._choices[path])
        if kind := self._kinds.get(path) or _kind_of(default):
            return _check_number(path, value, kind)
        _check_type(path, value, default)
        return value


def _kind_of(default: Any) -> Kind | None:
    if isinstance(default, bool) or not isinstance(default, int | float):
        return None
    return ANY_WHOLE if isinstance(default, int) else ANY_NUMBER


def _check_choice(path: str, value: Any, choices: list[str]) -> Any:
    if value not in choices:
        names = ", ".join(choices)
        raise ConfigError(f"{path} must be one of {names}, not {value!r}{hint(str(value), choices)}.")
    return value


def _check_number(path: str, value: Any, kind: Kind) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and kind.holds(value) and (not kind.whole or value == int(value)):
        return int(value) if kind.whole else value
    raise ConfigError(f"{path} must be {kind.words}, not {value!r}.")


def _check_type(path: str, value: Any, default: Any) -> None:
    words = {bool: "True or False", str: "a text", list: "a list, like [64, 64]"}
    for kind, text in words.items():
        if isinstance(default, kind) and not isinstance(value, kind):
            raise ConfigError(f"{path} must be {text}, not {value!r}.")


def hint(name: str, known: list[str], cutoff: float = 0.6) -> str:
    """Return ``" (did you mean ...?)"`` with the nearest of the ``known`` names, "" if none is near."""
    near = get_close_matches(name, known, n=3, cutoff=cutoff)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def unknown(what: str, name: object, known: list[str]) -> ConfigError:
    """Return the error for a ``what`` (such as "environment") of a ``name`` that is not ``known``."""
    names = ", ".join(known)
    return ConfigError(f"There is no {what} {name!r}{hint(str(name), known)}; there are: {names}.")
