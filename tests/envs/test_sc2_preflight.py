"""Each thing that StarCraft II lacks is one sentence with what mends it, before anything is started."""

import os
import subprocess
import sys

import pytest

import envs
from envs import sc2_folders, sc2_preflight
from sc2_stand_in import BUILD, GAME_VERSION, install
from utils.config import CONFIG_DIR, load

ARGS = load(CONFIG_DIR / "envs" / "sc2.yaml")["env_args"]
ARGS_V2 = load(CONFIG_DIR / "envs" / "sc2v2.yaml")["env_args"]


@pytest.fixture
def complete(monkeypatch, tmp_path):
    """A machine on which everything seems to be there; returns the game's folder."""
    packages = tmp_path / "packages"
    for name in ("smac", "smacv2", "pysc2"):
        (packages / name / "env" / "starcraft2").mkdir(parents=True)
        (packages / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(packages)
    for name in ("smac", "smacv2", "pysc2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    folder = install(tmp_path / "SC2", ["3m", "32x32_flat"])
    monkeypatch.setenv("SC2PATH", str(folder))
    monkeypatch.setattr(sc2_preflight.platform, "system", lambda: "Linux")
    return folder


def failures(env="sc2", games=1, **changes):
    args = {**(ARGS if env == "sc2" else ARGS_V2), **changes}
    found = {look.title: look.failure for look in sc2_preflight.checks(env, args, games)}
    return {title: failure for title, failure in found.items() if failure}


def complaint(env="sc2", **changes):
    with pytest.raises(ValueError, match=r"\S") as caught:
        envs.validate(env, {**(ARGS if env == "sc2" else ARGS_V2), **changes})
    return str(caught.value)


def test_a_complete_machine_passes(complete):
    assert failures() == failures("sc2v2") == {}
    envs.validate("sc2", ARGS)
    envs.validate("sc2v2", ARGS_V2)


def test_without_the_package_it_says_how_to_install_it(complete, monkeypatch):
    monkeypatch.setattr(sc2_preflight.importlib.util, "find_spec", lambda name: None)
    text = complaint()
    assert "official smac package is not installed: pip install --no-deps -r requirements-sc2.txt" in text
    assert "check sc2" in text
    assert "StarCraft II" in text
    assert "smax" in text
    assert "PySC2 is not installed" in failures()["package pysc2"]


def test_the_other_project_of_that_name_is_told_apart(complete, monkeypatch, tmp_path):
    other = tmp_path / "other"
    (other / "smac" / "facade").mkdir(parents=True)
    (other / "smac" / "__init__.py").touch()
    monkeypatch.syspath_prepend(other)
    text = failures()["package smac"]
    assert "another project" in text
    assert "pip uninstall smac && pip install" in text


def test_a_game_that_is_not_there(complete, monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    assert f"SC2PATH={tmp_path / 'nowhere'} is no folder: scripts/install_sc2.sh" in complaint()
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "SC2PATH is not set and there is no" in failures()["game"]
    (tmp_path / "StarCraftII").mkdir()
    assert "holds no StarCraft II" in failures()["game"]


def test_a_game_that_may_not_be_executed(complete):
    binary = sc2_preflight.binary(complete, BUILD)
    binary.chmod(0o644)
    assert failures()["game"].endswith(f"chmod +x {binary}")


def test_versions_are_those_that_are_installed(complete):
    assert "game_version=4.6.2 is not installed" in failures(game_version="4.6.2")["game"]
    (complete / ".build.info").unlink()
    assert failures(game_version="4.10.0") == {}
    (complete / ".build.info").write_text(f"Version!STRING:0|Active!DEC:1\n5.0.1.99999|1\n4.10.0.{BUILD}|0\n")
    versions = sc2_preflight.versions("sc2", ARGS)
    assert (versions["game_version"], versions["game_build"]) == ("4.10.0", str(BUILD))


def test_the_record_names_the_game_its_build_and_the_maps_hash(complete):
    versions = envs.versions("sc2", ARGS)
    assert versions["game_version"] == GAME_VERSION == "stand-in"
    assert versions["game_build"] == "stand-in"  # not the build that its folder pretends to be
    assert len(versions["map_sha256"]) == 64
    (complete / "Maps/SMAC_Maps/3m.SC2Map").write_text("another map")
    assert envs.versions("sc2", ARGS)["map_sha256"] != versions["map_sha256"]
    assert envs.versions("smax", {"map_name": "3m"}) == {}


def test_maps(complete):
    assert "did you mean 3m" in complaint(map_name="3mm")
    assert "There is no SMAC map 'terran_5'" in complaint("sc2v2", map_name="terran_5")
    missing = failures(map_name="8m")["map's file"]
    assert f"scripts/install_sc2.sh --accept-licence --maps-only --to {complete}" in missing


@pytest.mark.parametrize("level", [0, 10, "B", "easy"])
def test_difficulties(complete, level):
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9, A" in complaint(difficulty=level)
    assert failures(difficulty=7) == {}


@pytest.mark.parametrize("key", ["launch_timeout", "step_timeout"])
def test_time_outs(complete, key):
    assert key in complaint(**{key: 0})


def test_another_system_and_too_little_shared_memory(complete, monkeypatch):
    monkeypatch.setattr(sc2_preflight.platform, "system", lambda: "Darwin")
    assert "Linux only" in failures()["system"]
    monkeypatch.setattr(sc2_preflight, "SHARED_MEMORY_PER_GAME", 1 << 60)
    assert "--shm-size" in failures(games=8)["shared memory"]

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(sc2_preflight.shutil, "disk_usage", missing)
    assert "There is no /dev/shm" in failures()["shared memory"]


def test_too_few_ports_for_all_games(complete, monkeypatch):
    def none_left(address):
        raise OSError("too many open files")

    monkeypatch.setattr(sc2_preflight.socket, "create_server", none_left)
    with pytest.raises(ValueError, match="8 games need a local port each"):
        envs.validate("sc2", ARGS, n_envs=8)


def test_protobuf_that_was_loaded_in_another_way_is_named():
    code = (
        "import google.protobuf.descriptor, sys\n"
        "from google.protobuf.internal import api_implementation as used\n"
        "if used.Type() == 'python': sys.exit(0)\n"
        "from envs.sc2_preflight import use_python_protobuf\n"
        "try: use_python_protobuf()\n"
        "except RuntimeError as error: assert 'PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python' in str(error)\n"
        "else: sys.exit('it passed')"
    )
    environ = {key: value for key, value in os.environ.items() if key != sc2_preflight.PROTOBUF_SETTING}
    subprocess.run([sys.executable, "-c", code], cwd="src", env=environ, check=True)


def test_validation_imports_nothing_heavy(complete):
    code = (
        "import sys, envs; from utils.config import CONFIG_DIR, load;"
        "envs.validate('sc2', load(CONFIG_DIR / 'envs/sc2.yaml')['env_args']);"
        "assert not {'torch', 'jax', 'pysc2', 'smac', 'google.protobuf'} & set(sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(complete.parent / "packages")}
    subprocess.run([sys.executable, "-c", code], cwd="src", env=environ, check=True)


def test_folders_of_dead_processes_are_swept_and_others_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(sc2_folders.tempfile, "gettempdir", lambda: str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = sc2_folders.games_root() / str(dead.pid)
    (left / "sc-abc").mkdir(parents=True)
    taken_over = sc2_folders.games_root() / "1"  # by a process of another user, which can't be signalled
    taken_over.mkdir()
    own = sc2_folders.own_folder()
    (own / "sc-def").mkdir()
    kill = os.kill

    def refuse(pid, number):
        if pid == 1:
            raise PermissionError
        kill(pid, number)

    monkeypatch.setattr(sc2_folders.os, "kill", refuse)
    sc2_folders.sweep()
    assert not left.exists()
    assert not taken_over.exists()
    sc2_folders.remove_own_folder()
    assert own.exists()  # a game still uses it
    (own / "sc-def").rmdir()
    sc2_folders.remove_own_folder()
    assert not own.exists()
