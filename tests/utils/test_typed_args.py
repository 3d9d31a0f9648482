import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from utils.typed_args import Arguments, read


@dataclass(frozen=True)
class Settings:
    lr: float
    epochs: int
    mixer: str | None
    double_q: bool
    kind: Literal["sum", "mean"] = "sum"
    clip: float | None = 1.0
    extra: dict[str, Any] = field(default_factory=dict)


GOOD = {"lr": 0.1, "epochs": 2, "mixer": None, "double_q": True}


def _read(**changes: Any) -> Settings:
    return read(Settings, SimpleNamespace(**{**GOOD, **changes}))


def test_fields_are_read_by_name_and_others_left_alone():
    assert _read(unrelated=3) == Settings(**GOOD)


def test_int_becomes_float_where_a_float_is_expected():
    settings = _read(lr=1, clip=3)
    assert (type(settings.lr), type(settings.clip)) == (float, float)


def test_missing_key_is_named():
    with pytest.raises(ValueError, match=r"lacks the key 'lr', which Settings needs"):
        read(Settings, SimpleNamespace(epochs=2, mixer=None, double_q=True))


@pytest.mark.parametrize(
    "change",
    [
        {"lr": "0.1"}, {"lr": None}, {"lr": True}, {"epochs": 2.0}, {"epochs": True}, {"mixer": 3},
        {"double_q": 1}, {"kind": "max"}, {"extra": []},
    ],
)  # fmt: skip
def test_wrong_type_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        _read(**change)


def test_matching_types_pass():
    settings = _read(mixer="qmix", kind="mean", extra={"a": 1}, clip=None)
    assert (settings.mixer, settings.kind, settings.extra, settings.clip) == ("qmix", "mean", {"a": 1}, None)


def test_arguments_know_which_keys_have_been_read():
    args = Arguments(**GOOD, width=3)
    read(Settings, args)
    assert vars(copy.deepcopy(args)) == {**GOOD, "width": 3}
    assert not hasattr(args, "missing")
    assert args.unread(["width", "lr"]) == ["width"]
    assert args.width == 3
    assert args.unread(["width", "lr"]) == []
