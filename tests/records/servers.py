"""The tests' MongoDB server as a subprocess."""

import subprocess
import sys
from pathlib import Path

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
