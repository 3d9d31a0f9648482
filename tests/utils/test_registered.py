"""Names of parts are read from the very files that register them."""

import pytest

import components.action_selectors
import controllers
import learners
import modules.agents
import modules.critics
import modules.mixers
import runners
from utils import registered
from utils.constraints import ConfigError

REGISTRIES = {
    "runner": runners, "mac": controllers, "learner": learners, "agent": modules.agents,
    "action_selector": components.action_selectors, "critic_type": modules.critics, "mixer": modules.mixers,
}  # fmt: skip


@pytest.mark.parametrize("key", registered.FILES)
def test_what_is_read_is_what_is_registered(key):
    assert registered.names(key) == set(REGISTRIES[key].REGISTRY)


def test_names_added_as_in_epymarl_are_found_and_others_refused(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        'from .a import A\n\nREGISTRY = {"a": A}\nREGISTRY["b"] = A\nREGISTRY["c"], other["d"] = A, A\n'
    )
    monkeypatch.setattr(registered, "SOURCE", tmp_path)
    monkeypatch.setattr(registered, "FILES", {"agent": "mine.py"})
    registered.check_names({"agent": "b", "learner": "whatever"})
    registered.check_names({"agent": None})
    with pytest.raises(ConfigError, match="There is no agent 'bb' .*did you mean b"):
        registered.check_names({"agent": "bb"})
