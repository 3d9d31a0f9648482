"""The MongoDB server of the tests: a subprocess, or the real one that TEST_MONGO_URI names."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("mongo_server.py")


class MongoServer:
    """A server subprocess that can be told to fail, killed and started again with its data."""

    def __init__(self, folder: Path, user: str | None = None, password: str | None = None) -> None:
        self.data = folder / "mongo.bson"
        self.credentials = ["--user", user, "--password", password] if user else []
        self.at = f"{user}:{password}@" if user else ""
        self.port = 0

    def start(self) -> "MongoServer":
        command = [sys.executable, str(SERVER), "--data", str(self.data), "--port", str(self.port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([*command, *self.credentials], **pipes)
        self.port = int(self.process.stdout.readline())
        return self

    @property
    def uri(self) -> str:
        source = "?authSource=admin" if self.at else ""
        return f"mongodb://{self.at}127.0.0.1:{self.port}/marl{source}"

    def tell(self, fault: str) -> None:
        self.process.stdin.write(f"{fault}\n")
        assert self.process.stdout.readline() == "ok\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def mongo_server(tmp_path: Path) -> Iterator[MongoServer]:
    """A server of this test alone, whose faults it may switch on."""
    server = MongoServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty database, on the server that TEST_MONGO_URI names where it is set."""
    given = os.environ.get("TEST_MONGO_URI")
    if given:
        from pymongo import MongoClient

        uri, name = given.rstrip("/"), f"test_{uuid.uuid4().hex[:8]}"
        yield f"{uri}/{name}"
        MongoClient(uri).drop_database(name)
    else:
        server = MongoServer(tmp_path_factory.mktemp("mongo")).start()
        yield server.uri
        server.kill()
