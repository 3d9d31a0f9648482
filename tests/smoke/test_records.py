"""A real run with its copy in MongoDB, and questions about it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mongomock")

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "records" / "mongo_server.py"
TINY = [
    "env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit=20", "runner=episode",
    "t_max=200", "test_interval=100", "test_nepisode=2", "hidden_dim=16", "batch_size=4", "buffer_size=16",
    "cpu_threads=1", "final_test_nepisode=2",
]  # fmt: skip


@pytest.fixture
def server(tmp_path):
    """The port of a server with a user called reader whose password is sesame."""
    words = ["--data", str(tmp_path / "mongo.bson"), "--user", "reader", "--password", "sesame"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(SERVER), *words], **pipes) as process:
        yield int(process.stdout.readline())
        process.kill()


def _results(command_line, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src" / "results.py"), *words]
    return subprocess.run(
        command, cwd=command_line.cwd, env=command_line.environ, capture_output=True, text=True, check=False
    )


def test_a_run_is_copied_and_found_in_both_places(command_line, server):
    uri = f"mongodb://reader:sesame@127.0.0.1:{server}/marl?authSource=admin"
    words = command_line.words("qmix", "gymma", *TINY, "require_mongo=True")
    done = command_line.run([f"--mongo={uri}", *words])
    assert done.returncode == 0, done.stderr
    assert "MongoDB" not in done.stderr
    command_line.environ["MONGO_URI"] = uri
    verified = _results(command_line, "verify", str(command_line.results))
    assert verified.returncode == 0, verified.stderr

    places = (["--dir", str(command_line.results)], ["--mongo"])
    here, there = (_results(command_line, "list", "--format", "json", *place) for place in places)
    assert json.loads(here.stdout) == json.loads(there.stdout) != []
    for path in command_line.results.rglob("*"):
        assert path.is_dir() or b"sesame" not in path.read_bytes(), path
    assert b"sesame" not in (command_line.cwd.parent / "mongo.bson").read_bytes()
    assert "sesame" not in done.stdout + done.stderr


def test_a_wrong_password_ends_the_run_before_it_begins(command_line, server):
    uri = f"mongodb://reader:guess@127.0.0.1:{server}/marl?authSource=admin"
    words = command_line.words("qmix", "gymma", *TINY, "require_mongo=True")
    done = command_line.run([f"--mongo={uri}", *words])
    assert done.returncode == 2
    assert done.stderr == (
        f"error: MongoDB at 127.0.0.1:{server} refused the user name or the password; "
        "check MONGO_URI or --mongo.\n"
    )
    assert not command_line.results.exists()
