"""The MongoDB server of the tests: a subprocess, or the real one that TEST_MONGO_URI names."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import MongoServer


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
