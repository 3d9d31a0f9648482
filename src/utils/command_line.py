"""Reading command lines: what is wrong with one is said in one sentence."""

import argparse
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

from utils.constraints import ConfigError, hint


class Parser(argparse.ArgumentParser):
    """An argument parser that answers with one sentence."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")


def whole(text: str) -> int:
    """Read a whole number from 0 on, such as 50000 or 5e4, for an argument of a :class:`Parser`."""
    return _whole_from(0, text)


def count(text: str) -> int:
    """Read a whole number from 1 on, for an argument of a :class:`Parser`."""
    return _whole_from(1, text)


def _whole_from(least: int, text: str) -> int:
    if re.fullmatch(r"\d+(\.\d*)?(e\+?\d+)?", text, re.IGNORECASE | re.ASCII):
        number = Decimal(text)
        if number >= least and number == int(number):
            return int(number)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")


COPY_RUN = "copy the run to a folder of yours and name that"  # where a run directory isn't writable


def writable(folder: Path, remedy: str) -> Path:
    """Return ``folder`` if files can be made in it, or in what exists of the path to it.

    Raises:
        ConfigError: they can't; the sentence ends with the ``remedy``.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"Results can't be written to {folder}; {remedy}.")
    return folder


def read_words(argv: list[str], known: list[str], form: str) -> dict[str, str]:
    """Return the values of a command line of ``key=value`` words alone; a ``with`` may stand between.

    Raises:
        ConfigError: a word has another form, or a key that is not ``known``.
    """
    values: dict[str, str] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if word == "with":
            continue
        if not equals or key not in known:
            raise ConfigError(f"{word!r} is not part of this command{hint(key, known)}; the form is: {form}.")
        values[key] = value
    return values


def read_count(values: dict[str, str], key: str, default: int) -> int:
    """Return the whole number from 1 on that :func:`read_words` found for ``key``.

    Raises:
        ConfigError: it is none.
    """
    try:
        return count(values[key]) if key in values else default
    except argparse.ArgumentTypeError:
        raise ConfigError(f"{key} must be a whole number from 1 on, not {values[key]!r}.") from None
