"""Bad environments are refused with one sentence, without loading the heavy packages."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

import envs
from envs.smax_scenarios import SCENARIOS

LBF = "lbforaging:Foraging-8x8-2p-3f-v3"


def complaint(name, **env_args):
    with pytest.raises(ValueError, match=r"\S") as caught:
        envs.validate(name, env_args)
    return str(caught.value)


def test_good_arguments_pass():
    for name in SCENARIOS:
        envs.validate("smax", {"map_name": name, "reward_scale": 10, "max_steps": 100})
    envs.validate("gymma", {"key": LBF, "time_limit": 50})


def test_unknown_names_come_with_the_nearest_ones():
    assert "smax" in complaint("smaxx")
    assert "3s_vs_5z" in complaint("smax", map_name="3s_v_5z")
    assert "Foraging-8x8-2p-3f-v3" in complaint("gymma", key="lbforaging:Foraging-8x8-2p-3f-v9", time_limit=5)
    assert "no_such_module" in complaint("gymma", key="no_such_module:Some-v0", time_limit=5)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("smax", {"max_steps": 0}),
        ("smax", {"max_steps": True}),
        ("smax", {"reward_scale": -1.0}),
        ("smax", {"reward_scale": "10"}),
        ("smax", {"attack_mode": "nearest"}),
        ("smax", {"see_enemy_actions": 1}),
        ("gymma", {"time_limit": -5}),
        ("gymma", {"key": None}),
    ],
)
def test_a_bad_value_is_named(name, wrong):
    good = {"smax": {"map_name": "3m"}, "gymma": {"key": LBF, "time_limit": 50}}[name]
    assert next(iter(wrong)) in complaint(name, **{**good, **wrong})


def test_smaclite_says_how_to_install_it_or_which_maps_it_has(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'smaclite @ git+" in complaint("smaclite", map_name="2s3z", time_limit=150)
    maps = tmp_path / "env" / "maps" / "smaclite_maps"
    maps.mkdir(parents=True)
    for name in ("2s3z", "mmm", "example_custom_map"):
        (maps / f"{name}.json").touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    envs.validate("smaclite", {"map_name": "MMM", "time_limit": 150})
    assert "did you mean 2s3z?" in complaint("smaclite", map_name="2s4z", time_limit=150)
    assert "time_limit" in complaint("smaclite", map_name="2s3z", time_limit=0)


def test_neither_jax_nor_torch_is_imported():
    code = (
        "import sys, envs; envs.validate('smax', {'map_name': '3m'});"
        f"envs.validate('gymma', {{'key': '{LBF}', 'time_limit': 9}});"
        "assert not {'jax', 'torch', 'jaxmarl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd="src", check=True)


def test_only_the_simulator_is_imported_of_all_the_environments_beside_it():
    code = (
        "import sys; out = sys.stdout; import envs.smax;"
        "beside = [name for name in sys.modules if name.startswith('jaxmarl.environments.')];"
        "assert 'jaxmarl.environments.smax' in beside and len(beside) < 10, beside;"
        "assert sys.stdout is out and not {'matplotlib', 'jaxmarl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd="src", check=True)
