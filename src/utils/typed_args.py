"""From the untyped ``args`` namespace at the interfaces to one small typed dataclass per component."""

import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Arguments(types.SimpleNamespace):
    """The configuration as parts are given it; it notes which of its keys they have read."""

    __slots__ = ("_read",)

    def __init__(self, **values: Any) -> None:
        self._read: set[str] = set()
        super().__init__(**values)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("_"):
            self._read.add(name)
        return value

    def unread(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that nothing has read yet."""
        return [key for key in keys if key not in self._read]


def read(cls: type[T], args: Any) -> T:
    """Build the dataclass ``cls`` from the attributes of ``args`` that carry its fields' names.

    A field with a default may be missing from ``args``. An int is accepted, and converted, where a float is
    expected.

    Raises:
        ValueError: a key is missing or its value has another type than the field.
    """
    if not is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    hints = get_type_hints(cls)
    values = {}
    for field in fields(cls):
        if hasattr(args, field.name):
            value = getattr(args, field.name)
            values[field.name] = _checked(value, hints[field.name], field.name, cls.__name__)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(
                f"the configuration lacks the key {field.name!r}, which {cls.__name__} needs: it"
                " stands in the files of algorithms that use it (src/config/algs)"
            )
    return cls(**values)


def _checked(value: Any, hint: Any, key: str, owner: str) -> Any:
    """Return ``value``, converted from int to float where ``hint`` asks for it."""
    if not _matches(value, hint):
        expected = getattr(hint, "__name__", None) if get_origin(hint) is None else str(hint)
        raise ValueError(
            f"the key {key!r} must be {expected or hint} for {owner}, got {value!r} ({type(value).__name__})"
        )
    wants_float = hint is float or (_is_union(hint) and float in get_args(hint) and int not in get_args(hint))
    return float(value) if wants_float and type(value) is int else value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _matches(value: Any, hint: Any) -> bool:
    """Tell whether ``value`` is of the annotated type, looking at containers but not into them."""
    if hint is Any:
        return True
    if _is_union(hint):
        return any(_matches(value, option) for option in get_args(hint))
    origin = get_origin(hint)
    if origin is not None and not isinstance(origin, type):  # Literal
        return value in get_args(hint)
    expected = origin or hint
    if isinstance(value, bool):
        return expected is bool
    if expected is float:
        return isinstance(value, int | float)
    if expected is tuple:
        return isinstance(value, tuple | list)
    return isinstance(value, expected)
