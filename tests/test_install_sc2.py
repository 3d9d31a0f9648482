"""scripts/install_sc2.sh, as far as it goes without the internet: downloads come from a folder here."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "install_sc2.sh"
BINARY = "Versions/Base75689/SC2_x64"
TOOLS = ("bash", "curl", "unzip", "zip", "sha256sum")
LACKING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")


class Place:
    """A folder with a copy of the script, a source of downloads and a place for the game."""

    def __init__(self, folder: Path):
        self.source, self.game = folder / "source", folder / "my games" / "SC2"
        self.source.mkdir()
        scripts = folder / "scripts"
        scripts.mkdir()
        self.script = shutil.copy(SCRIPT, scripts)
        (self.source / "tiny.SC2Map").write_text("a map")
        self.sums = scripts / "sc2_maps.sha256"
        self.sums.write_text(f"# the maps\n{_sha256(self.source / 'tiny.SC2Map')}  tiny.SC2Map\n")

    def archive(self) -> Path:
        """An archive like Blizzard's, with a password."""
        binary = self.source / "StarCraftII" / BINARY
        binary.parent.mkdir(parents=True)
        binary.write_text("the game")
        command = ["zip", "-q", "-r", "-P", "iagreetotheeula", "game.zip", "StarCraftII"]
        subprocess.run(command, cwd=self.source, check=True)
        return self.source / "game.zip"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        url = self.source.as_uri()
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(self.source), "SC2_MAPS_URL": url}
        environ["SC2_GAME_URL"] = f"{url}/game.zip"
        command = ["bash", str(self.script), "--to", str(self.game), *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_nothing_is_downloaded_without_the_licence_being_accepted(place):
    done = place.run()
    assert done.returncode == 2
    assert "--accept-licence" in done.stderr
    assert not place.game.parent.exists()


@pytest.mark.parametrize(
    "words",
    [["--fast"], ["--sha256"], ["--maps-only"], ["--accept-licence", "--archive", "x"], ["--maps", "x"]],
)
def test_bad_arguments_are_answered_with_one_sentence(place, words):
    done = place.run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_help_names_the_arguments(place):
    assert "--accept-licence" in place.run("--help").stdout


def test_game_and_maps_are_installed_and_a_second_time_left_alone(place):
    words = ["--accept-licence", "--sha256", _sha256(place.archive())]
    done = place.run(*words)
    assert done.returncode == 0, done.stderr
    assert (place.game / BINARY).stat().st_mode & 0o111
    assert (place.game / "Maps/SMAC_Maps/tiny.SC2Map").read_text() == "a map"
    assert sorted(path.name for path in place.game.parent.iterdir()) == ["SC2"]
    shutil.rmtree(place.source)
    again = place.run(*words)
    assert again.returncode == 0, again.stderr
    assert "already" in again.stdout


def test_a_download_that_broke_off_goes_on(place):
    archive = place.archive()
    place.game.parent.mkdir()
    partial = place.game.parent / "SC2.SC2.4.10.zip"
    partial.write_bytes(archive.read_bytes()[:100])
    done = place.run("--accept-licence", "--sha256", _sha256(archive))
    assert done.returncode == 0, done.stderr
    assert (place.game / BINARY).exists()


def test_a_whole_download_is_not_downloaded_again(place):
    archive = place.archive()
    place.game.parent.mkdir()
    shutil.move(archive, place.game.parent / "SC2.SC2.4.10.zip")  # the source has none any more
    done = place.run("--accept-licence", "--sha256", _sha256(place.game.parent / "SC2.SC2.4.10.zip"))
    assert done.returncode == 0, done.stderr
    assert (place.game / BINARY).exists()


def test_an_older_game_is_replaced_but_for_its_own_build(place):
    (place.source / "StarCraftII").mkdir()
    (place.source / "StarCraftII" / ".build.info").write_text("4.10")
    older = place.game / "Versions/Base69232/SC2_x64"
    older.parent.mkdir(parents=True)
    older.touch(mode=0o755)
    (place.game / ".build.info").write_text("4.6.2")
    place.sums.write_text("")
    done = place.run("--maps-only")
    assert done.returncode == 0, done.stderr  # maps go into a game of any build
    done = place.run("--accept-licence", "--sha256", _sha256(place.archive()))
    assert done.returncode == 0, done.stderr
    assert (place.game / ".build.info").read_text() == "4.10"
    assert (place.game / BINARY).exists()
    assert older.exists()
    assert sorted(path.name for path in place.game.iterdir()) == [".build.info", "Maps", "Versions"]


def test_what_breaks_off_between_leaves_no_game_that_looks_complete(place):
    archive = place.archive()
    (place.game / "Versions").mkdir(parents=True)
    (place.game / "Versions" / "Base75689").write_text("no folder: nothing can be linked into it")
    words = ["--accept-licence", "--archive", str(archive), "--sha256", _sha256(archive)]
    assert place.run(*words).returncode != 0
    (place.game / "Versions" / "Base75689").unlink()
    assert "already" not in place.run(*words).stdout
    assert (place.game / BINARY).exists()


def test_without_the_internet_game_and_maps_come_from_files(place):
    archive = place.archive()
    maps = place.source / "maps"
    maps.mkdir()
    shutil.move(place.source / "tiny.SC2Map", maps)
    done = place.run(
        "--accept-licence", "--archive", str(archive), "--sha256", _sha256(archive), "--maps", str(maps)
    )
    assert done.returncode == 0, done.stderr
    assert (place.game / "Maps/SMAC_Maps/tiny.SC2Map").read_text() == "a map"


def test_a_broken_archive_is_refused_and_nothing_installed(place):
    archive = place.archive()
    good = _sha256(archive)
    archive.write_bytes(archive.read_bytes()[:-30])
    done = place.run("--accept-licence", "--archive", str(archive), "--sha256", good)
    assert done.returncode == 1
    assert "broken" in done.stderr
    assert archive.exists()
    assert not place.game.exists()


def test_an_archive_of_something_else_is_refused(place):
    (place.source / "other").write_text("no game")
    subprocess.run(["zip", "-q", "other.zip", "other"], cwd=place.source, check=True)
    other = place.source / "other.zip"
    done = place.run("--accept-licence", "--archive", str(other), "--sha256", _sha256(other))
    assert done.returncode == 1
    assert "SC2_x64" in done.stderr


def test_a_map_that_was_tampered_with_is_replaced_and_a_wrong_one_refused(place):
    binary = place.game / BINARY
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    installed = place.game / "Maps/SMAC_Maps/tiny.SC2Map"
    installed.parent.mkdir(parents=True)
    installed.write_text("tampered with")
    assert place.run("--maps-only").returncode == 0
    assert installed.read_text() == "a map"
    (place.source / "tiny.SC2Map").write_text("another map")
    installed.unlink()
    done = place.run("--maps-only")
    assert done.returncode == 1
    assert "not the map that was expected" in done.stderr
    assert not installed.exists()


def test_the_real_list_names_every_smac_map():
    from envs.sc2_preflight import SMAC_MAPS
    from envs.sc2v2_scenarios import MAP_FILE

    rows = (SCRIPT.parent / "sc2_maps.sha256").read_text().splitlines()
    sums = dict(reversed(row.split()) for row in rows if not row.startswith("#"))
    assert set(sums) == {f"{name}.SC2Map" for name in (*SMAC_MAPS, MAP_FILE)}
    assert all(len(value) == 64 for value in sums.values())
