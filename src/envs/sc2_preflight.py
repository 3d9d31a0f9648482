"""What StarCraft II needs, looked at before anything is launched and without importing any of it.

Each thing that is missing is one sentence with the command that mends it. ``python src/main.py check sc2``
prints the whole list.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from envs.sc2v2_scenarios import MAP_FILE, SCENARIOS
from utils.constraints import hint

INSTALL_PACKAGES = "pip install --no-deps -r requirements-sc2.txt"
INSTALL_GAME = "scripts/install_sc2.sh --accept-licence"
ELSE = "--env-config=smax needs none of it"

PROTOBUF_SETTING = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
DIFFICULTIES = tuple("123456789A")
BUILD_PREFIX = "Base"
BUILD_WORD = "build "  # begins the name of a version of which only the build is known
RELEASES = {69232: "4.6.2", 75689: "4.10.0"}  # of builds without a .build.info: SMAC's paper's and ours
SHARED_MEMORY_PER_GAME = 2 << 20  # bytes; a floor of our own: with Docker's 64 MiB others play 16 games

SMAC_MAPS = (
    "3m", "8m", "25m", "5m_vs_6m", "8m_vs_9m", "10m_vs_11m", "27m_vs_30m", "MMM", "MMM2", "2s3z", "3s5z",
    "3s5z_vs_3s6z", "3s_vs_3z", "3s_vs_4z", "3s_vs_5z", "1c3s5z", "2m_vs_1z", "corridor", "6h_vs_8z",
    "2s_vs_1sc", "so_many_baneling", "bane_vs_bane", "2c_vs_64zg",
)  # fmt: skip


class Missing(ValueError):
    """Something is missing; the text is one sentence that says how to mend it."""


class Check(NamedTuple):
    """One thing looked at: what was found, or what is wrong."""

    title: str
    found: str
    failure: str


def checks(env: str, env_args: Mapping[str, Any], games: int) -> list[Check]:
    """Look at everything that ``games`` games of ``env`` ("sc2" or "sc2v2") need side by side."""
    package, map_name = "smac" if env == "sc2" else "smacv2", env_args["map_name"]
    looks: list[tuple[str, Callable[[], str]]] = [
        ("difficulty", lambda: _difficulty(env_args["difficulty"])),
        ("map's name", lambda: _known_map(env, map_name)),
        ("system", _system),
        (f"package {package}", lambda: smac_package(package)),
        ("package pysc2", _pysc2),
        ("game's folder", lambda: str(game_folder())),
        ("game", lambda: _game(env_args.get("game_version"))),
        ("map's file", lambda: str(_map_file(env, map_name))),
        ("shared memory", lambda: _shared_memory(games)),
        ("ports", lambda: _ports(games)),
    ]
    return [_look(title, look) for title, look in looks]


def _look(title: str, look: Callable[[], str]) -> Check:
    try:
        return Check(title, look(), "")
    except Missing as missing:
        return Check(title, "", str(missing))


def require(env: str, env_args: Mapping[str, Any], games: int) -> None:
    """Raise ValueError, one sentence, if ``games`` games of ``env`` could not be played side by side."""
    found = checks(env, env_args, games)
    failures = list(dict.fromkeys(check.failure for check in found if check.failure))
    if failures:
        others = f"; {len(failures) - 1} more missing" if len(failures) > 1 else ""
        check = f"`python src/main.py check {env}` lists all that StarCraft II needs"
        raise ValueError(f"{failures[0]}{others} ({check}; {ELSE}).")


def versions(env: str, env_args: Mapping[str, Any]) -> dict[str, str]:
    """What a record must say of the game: results of different builds are not comparable, and something that
    is no StarCraft II must not pass for a build of it."""
    folder = game_folder()
    build = installed_build(folder, env_args.get("game_version"))
    file = _map_file(env, env_args["map_name"])
    name = release(folder, build)
    return {
        "game_version": name,
        "game_build": str(build) if is_release(name) else name,
        "map_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def use_python_protobuf() -> None:
    """Make PySC2's generated messages loadable by any protobuf; to be called before it is first imported.

    Raises:
        RuntimeError: protobuf is loaded already, in a way that PySC2 dies on.
    """
    os.environ.setdefault(PROTOBUF_SETTING, "python")
    if "google.protobuf" in sys.modules:
        from google.protobuf import __version__
        from google.protobuf.internal import api_implementation

        if api_implementation.Type() != "python" and int(__version__.split(".")[0]) > 3:
            raise RuntimeError(
                f"PySC2 cannot use protobuf as it was loaded here: set {PROTOBUF_SETTING}=python in the "
                "shell and start again."
            )


def _system() -> str:
    if platform.system() != "Linux":
        raise Missing(f"StarCraft II is started headless on Linux only, and this is {platform.system()}")
    return platform.platform()


def _difficulty(level: Any) -> str:
    if str(level) not in DIFFICULTIES:
        raise Missing(f"env_args.difficulty must be one of {', '.join(DIFFICULTIES)}, not {level!r}")
    return str(level)


def smac_package(package: str) -> str:
    """Where the official ``package`` ("smac" or "smacv2") lies, told from its folder without importing it.

    Raises:
        Missing: it is not installed, or another project of the same name is.
    """
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [] if spec else [])]
    for folder in folders:
        if (folder / "env" / "starcraft2").is_dir():
            return str(folder)
    if folders:
        raise Missing(
            f"The package '{package}' in {folders[0]} is another project of that name: "
            f"pip uninstall {package} && {INSTALL_PACKAGES}"
        )
    raise Missing(f"The official {package} package is not installed: {INSTALL_PACKAGES}")


def _pysc2() -> str:
    if importlib.util.find_spec("pysc2") is None:
        raise Missing(f"PySC2 is not installed: {INSTALL_PACKAGES}")
    try:
        return version("pysc2")
    except PackageNotFoundError:
        return "of unknown version"


def game_folder() -> Path:
    """The folder of StarCraft II: SC2PATH, or PySC2's default where that is not set.

    Raises:
        Missing: there is none.
    """
    path = os.environ.get("SC2PATH")
    folder = Path(path or "~/StarCraftII").expanduser()
    if folder.is_dir():
        return folder
    where = f"SC2PATH={path} is no folder" if path else f"SC2PATH is not set and there is no {folder}"
    raise Missing(f"{where}: {INSTALL_GAME}, then export SC2PATH=<its folder>")


def _game(game_version: str | None) -> str:
    folder = game_folder()
    build = installed_build(folder, game_version)
    return f"{release(folder, build)} (build {build}), {binary(folder, build)}"


def installed_build(folder: Path, game_version: str | None) -> int:
    """The build that PySC2 starts: the one of ``game_version``, or the newest.

    Raises:
        Missing: it is not there or cannot be started.
    """
    names = [path.name for path in (folder / "Versions").glob(f"{BUILD_PREFIX}*")]
    builds = sorted(
        int(name.removeprefix(BUILD_PREFIX)) for name in names if name[len(BUILD_PREFIX) :].isdigit()
    )
    builds = [build for build in builds if binary(folder, build).is_file()]
    if not builds:
        raise Missing(
            f"{folder} holds no StarCraft II (no Versions/{BUILD_PREFIX}*/SC2_x64): "
            f"{INSTALL_GAME} --to {folder}"
        )
    build = builds[-1]
    if game_version is not None:
        found = {release(folder, one): one for one in builds}
        if game_version not in found:
            raise Missing(
                f"env_args.game_version={game_version} is not installed in {folder}, which holds "
                f"{', '.join(found)}: leave it null for the newest"
            )
        build = found[game_version]
    if not os.access(binary(folder, build), os.X_OK):
        raise Missing(f"The game may not be executed: chmod +x {binary(folder, build)}")
    return build


def binary(folder: Path, build: int) -> Path:
    """The program of a build."""
    return folder / "Versions" / f"{BUILD_PREFIX}{build:05d}" / "SC2_x64"


def release(folder: Path, build: int) -> str:
    """The version of a build, such as "4.10.0": as the installation says, or from a table."""
    info = folder / ".build.info"
    if info.is_file():
        titles, *rows = (line.split("|") for line in info.read_text().splitlines())
        column = [title.partition("!")[0] for title in titles].index("Version")
        named = [row[column] for row in rows if len(row) > column]
        said = next((name for name in named if name.endswith(f".{build}") or not is_release(name)), None)
        if said is not None:
            return said.removesuffix(f".{build}")
    return RELEASES.get(build, f"{BUILD_WORD}{build}")


def is_release(name: str) -> bool:
    """Whether ``name`` is the version of a StarCraft II: digits and dots, or the number of a build."""
    return all(part.isdigit() for part in name.removeprefix(BUILD_WORD).split("."))


def _known_map(env: str, map_name: str) -> str:
    known = list(SMAC_MAPS if env == "sc2" else SCENARIOS)
    if map_name not in known:
        raise Missing(
            f"There is no SMAC map {map_name!r}{hint(map_name, known)}; there are: {', '.join(known)}"
        )
    return map_name


def _map_file(env: str, map_name: str) -> Path:
    name = map_name if env == "sc2" else MAP_FILE
    file = game_folder() / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"
    if not file.is_file():
        raise Missing(f"The map's file {file} is missing: {INSTALL_GAME} --maps-only --to {game_folder()}")
    return file


def _shared_memory(games: int) -> str:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except FileNotFoundError as error:
        raise Missing("There is no /dev/shm, which the game needs: mount -t tmpfs tmpfs /dev/shm") from error
    if free < games * SHARED_MEMORY_PER_GAME:
        raise Missing(
            f"/dev/shm has {free >> 20} MiB free, too little for {games} games: mount -o remount,size=1G "
            "/dev/shm (in Docker: docker run --shm-size=1g)"
        )
    return f"{free >> 20} MiB free in /dev/shm"


def _ports(games: int) -> str:
    with ExitStack() as stack:
        try:
            for _ in range(games):
                stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        except OSError as error:
            raise Missing(
                f"{games} games need a local port each, and the system gives none ({error}): raise ulimit -n "
                "or start fewer games with batch_size_run"
            ) from error
    return f"{games} free"
