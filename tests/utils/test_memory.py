"""What fits into memory, containers included."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from components.episode_buffer import ReplayBuffer
from utils import memory

ROOT = Path(__file__).resolve().parents[2]


def test_a_limit_of_the_container_counts(tmp_path, monkeypatch):
    everything = memory.available()
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available() <= everything * 1.2
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory.available() == 650_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 10**7


def test_what_does_not_fit_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1_500_000)
    memory.require("replay buffer", 1_500_000, "cpu", "buffer_size")
    with pytest.raises(ValueError, match=r"^The replay buffer would take 2.00 GB .* 1.50 MB are free: lower"):
        memory.require("replay buffer", 2_000_000_000, "cpu", "buffer_size")


def test_a_buffer_says_what_it_takes_and_refuses_more_than_there_is():
    scheme = {"obs": {"vshape": 10, "group": "agents"}}
    buffer = ReplayBuffer(scheme, {"agents": 2}, 5, 7)
    assert buffer.nbytes == 5 * 7 * (2 * 10 * 4 + 8)
    with pytest.raises(ValueError, match="lower buffer_size"):
        ReplayBuffer(scheme, {"agents": 2}, 10**12, 7)


def test_a_buffer_takes_its_memory_at_once():
    script = """
        import psutil
        from components.episode_buffer import ReplayBuffer

        process = psutil.Process()
        before = process.memory_info().rss
        buffer = ReplayBuffer({"obs": {"vshape": 1000, "group": "agents"}}, {"agents": 2}, 500, 50)
        print((process.memory_info().rss - before) / buffer.nbytes)
    """
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}  # a fresh process: this one has memory to reuse
    command = [sys.executable, "-c", textwrap.dedent(script)]
    taken = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert float(taken) > 0.9
