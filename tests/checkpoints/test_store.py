"""Checkpoints come back as they were, appear as a whole or not at all, and damage is noticed."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints import CheckpointError, CheckpointStore
from checkpoints import checkpoint as format
from utils.seeding import GlobalGenerators

SOURCE = Path(__file__).parents[2] / "src"


def save_policy(path):
    torch.save({"weight": torch.arange(5.0)}, f"{path}/agent.th")


def make_state():
    ring = torch.arange(1000.0).view(100, 10)
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return {
        "view": ring[:7], "rounded": ring.bfloat16()[:7], "none of it": ring.bfloat16()[:0],
        "expanded": torch.ones(1, 3).expand(4, 3), "scalar": torch.tensor(3),
        "flags": torch.tensor([True, False]), "optimiser": optimiser.state_dict(),
        "model": model.state_dict(), "big": 2**127, "nothing": None, 7: "number",
        "pairs": [(1, 2.5), ("a", float("inf"))],
        "rng": np.random.default_rng(3).bit_generator.state, "generators": GlobalGenerators().state_dict(),
    }  # fmt: skip


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def save(store, step, **notes):
    return store.save(step, save_policy, {"learner": {"step": step, "x": torch.ones(50)}}, notes)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_a_state_comes_back_as_it_was_and_only_what_is_seen_of_a_tensor_is_written(store):
    state = make_state()
    found = store.save(10, save_policy, {"part": state}, {"note": 1}).path
    checkpoint = format.read(found)
    checkpoint.verify()
    assert_equal(state, checkpoint.load("part"))
    assert checkpoint.notes["note"] == 1
    assert checkpoint.files["part.pt"]["bytes"] < 40_000  # the generators take half of it


def test_the_newest_and_the_best_stay(store):
    store.save_best(5, save_policy, {})
    for step in (10, 20):
        save(store, step)
    store.save_best(25, save_policy, {})
    for step in (30, 40):
        save(store, step)
    assert names(store) == ["30", "40", "best-25"]
    assert store.find("last").step == 40
    assert store.find("best").step == store.find("25").step == 25
    assert store.find("30").step == 30


def test_a_run_that_goes_back_has_its_best_policy_again(store):
    store.save_best(5, save_policy, {})
    save(store, 10)
    store.save_best(15, save_policy, {})
    assert names(store) == ["10", "best-15", "best-5"]
    later = CheckpointStore(store.folder, keep=2)
    later.go_on_from(later.newest())
    assert later.best.step == 5
    save(later, 12)
    assert names(store) == ["10", "12", "best-5"]


def test_what_lies_behind_the_point_that_a_run_went_back_to_is_removed_once_there_is_something_newer(store):
    for step in (10, 20):
        save(store, step)
    (store.folder / "20" / "learner.pt").write_bytes(b"")
    later = CheckpointStore(store.folder, keep=2)
    assert later.newest().step == 10
    assert names(store) == ["10", "20"]
    save(later, 15)
    assert names(store) == ["10", "15"]


def test_a_checkpoint_of_the_same_step_is_replaced(store):
    save(store, 10, version="old")
    save(store, 10, version="new")
    assert names(store) == ["10"]
    assert store.newest().notes["version"] == "new"


@pytest.mark.parametrize("file", ["learner.pt", "manifest.json", "policy/agent.th"])
def test_any_flipped_bit_and_any_cut_is_noticed_and_the_one_before_used(store, caplog, file):
    save(store, 10)
    path = save(store, 20).path / file
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        if file == "manifest.json" and is_same_json(path.read_bytes(), whole):
            continue  # a space became another white space
        caplog.clear()
        assert store.newest().step == 10
        assert str(path) in caplog.text
        path.write_bytes(whole[:at])
        assert store.newest().step == 10
    path.unlink()
    assert store.newest().step == 10
    path.write_bytes(whole)
    assert store.newest().step == 20


def is_same_json(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def test_when_all_are_damaged_that_is_an_error_and_when_there_is_none_it_is_not(store):
    assert store.newest() is None
    (save(store, 10).path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no undamaged checkpoint left.*10"):
        store.newest()


def test_a_policy_is_found_although_the_rest_is_damaged(store):
    (save(store, 10).path / "learner.pt").write_bytes(b"")
    assert torch.load(store.find("last").policy / "agent.th")["weight"].sum() == 10


def test_of_a_step_with_both_the_checkpoint_to_go_on_from_is_found(store):
    store.save_best(10, save_policy, {})
    assert not store.find("10").is_complete
    save(store, 10)
    assert store.find("10").is_complete
    assert not store.find("best").is_complete


def test_what_is_not_there_is_told_with_what_is(store):
    save(store, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint 'best'; there are: 10, last\.$"):
        store.find("best")


def test_a_later_version_is_refused(store):
    path = save(store, 10).path / "manifest.json"
    manifest = json.loads(path.read_text()) | {"version": format.VERSION + 1}
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"digest": digest}))
    with pytest.raises(CheckpointError, match="later version"):
        format.read(path.parent)


FULL_DISK = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
import resource, torch
from pathlib import Path
from checkpoints import CheckpointError, CheckpointStore

store = CheckpointStore(Path(sys.argv[1]), keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    policy = torch.ones(100)
    store.save(20, lambda path: torch.save(policy, path + "/agent.th"), {{"x": torch.ones(100_000)}}, {{}})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [500, 100_000])
def test_a_write_that_fails_midway_leaves_everything_as_it_was(store, limit):
    save(store, 10)
    command = [sys.executable, "-c", FULL_DISK, str(store.folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "can't be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert names(store) == ["10"]
    store.newest().verify()


def crash(*_):
    raise KeyboardInterrupt


def test_a_crash_while_saving_leaves_the_one_before(store, monkeypatch):
    save(store, 10)
    for name in ("rename", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(format.os, name, crash)
            with pytest.raises(KeyboardInterrupt):
                save(store, 20)
        assert CheckpointStore(store.folder).newest().step == 10
    save(store, 20)
    assert names(store) == ["10", "20"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), draws=st.integers(0, 5))
def test_generators_go_on_where_they_were(seed, draws):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

    def draw():
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.randn(3).tolist(),
        )

    for _ in range(draws):
        draw()
    generators = GlobalGenerators()
    saved = generators.state_dict()
    expected = [draw() for _ in range(3)]
    generators.load_state_dict(saved)
    assert [draw() for _ in range(3)] == expected
