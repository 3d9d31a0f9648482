"""Questions about runs: the same answers from folders and from MongoDB, and damaged runs hide no others."""

import json
import os
import shutil
import time
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from samples import write_run, write_runs
from servers import MongoServer

from records import export, query, sacred_files, sync
from records.folder import INDEX, FolderStore, run_directories
from records.journal import DEAD_AFTER, FILE, Journal, read_journal
from records.mongo import connect
from records.mongo_store import MongoStore
from records.query import Filter, select
from utils.constraints import ConfigError

NOON = "2026-11-02T12:00:00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def stores(folder, mongo_uri):
    list(sync.sync(connect(mongo_uri), run_directories(folder)))
    return FolderStore([folder]), MongoStore(mongo_uri)


def _ids(runs):
    return [(run.alg, run.map, run.seed) for run in runs]


def test_folder_and_mongodb_give_the_same_answers(stores):
    frames = []
    for store in stores:
        chosen = select(store, Filter(map=("3m",)))
        curves = query.curves(store, chosen, "test_battle_won_mean")
        frames.append([query.runs(chosen), curves, query.table(curves), query.best(curves)])
    for here, there in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(here, there)
    here, there = (select(store, Filter()) for store in stores)
    assert [run.details for run in here] == [run.details for run in there]
    assert [run.config for run in here] == [run.config for run in there]


def test_curves_without_times_are_the_same_otherwise(stores):
    for store in stores:
        chosen = store.runs()
        timed, fast = (query.curves(store, chosen, "test_battle_won_mean", times=t) for t in (True, False))
        assert timed["seconds"].notna().all()
        pd.testing.assert_frame_equal(timed.drop(columns="seconds"), fast.drop(columns="seconds"))


@pytest.mark.parametrize("place", [0, 1], ids=["folder", "mongodb"])
def test_filters(stores, place):
    store = stores[place]
    everything = select(store, Filter())
    assert len(everything) == 12
    assert _ids(select(store, Filter(alg=("qmix",), map=("8m",), seed=(0, 2)))) == [
        ("qmix", "8m", 0),
        ("qmix", "8m", 2),
    ]
    assert len(select(store, Filter(status=("COMPLETED",)))) == 12
    assert len(select(store, Filter(keys=("env_args.map_name=3m", "lr=0.0005")))) == 6
    assert len(select(store, Filter(commit="abc"))) == 12
    assert (
        len(select(store, Filter(since=date.today() - timedelta(1), until=date.today() + timedelta(1)))) == 12
    )
    run = everything[3]
    assert select(store, Filter(runs=(run.run[:6],)))[0].run == run.run


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Filter(alg=("qmxi",)), ["no run with alg 'qmxi'", "mean qmix?", "mappo"]),
        (Filter(seed=(7,)), ["seed 7", "there are: 0, 1, 2"]),
        (Filter(alg=("qmix", "mapo")), ["no run with alg 'mapo'", "mean mappo?"]),
        (Filter(status=("FAILED", "DIED")), ["status FAILED or DIED"]),
        (Filter(keys=("lrr=1",)), ["configuration key 'lrr'", "mean lr?"]),
        (Filter(keys=("lr=1",)), ["lr", "'1'", "0.0005"]),
        (Filter(keys=("lr",)), ["key=value"]),
        (Filter(commit="fff"), ["commit fff"]),
        (Filter(until=date(2000, 1, 1)), ["until 2000-01-01"]),
        (Filter(runs=("zzzzzzzzz",)), ["'zzzzzzzzz'", "list"]),
    ],
)
def test_an_empty_selection_is_one_sentence(stores, wanted, words):
    with pytest.raises(ConfigError) as refusal:
        select(stores[0], wanted)
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_an_unknown_metric_is_one_sentence(stores):
    chosen = select(stores[0], Filter())
    with pytest.raises(ConfigError, match="no metric 'test_return_mean' .*test_battle_won_mean"):
        query.metric_of(chosen, "test_return_mean")
    assert query.metric_of(chosen, None) == "test_battle_won_mean"


def test_a_damaged_run_is_named_and_hides_no_other(tmp_path):
    root = write_runs(tmp_path)
    directories = run_directories(root)
    (directories[0] / FILE).write_text("{broken\n")
    (directories[1] / FILE).write_bytes(os.urandom(300))
    (directories[2] / FILE).unlink()
    (directories[2] / "run.json").write_text("{")
    of_another_kind = json.loads((directories[3] / FILE).read_text().splitlines()[0])
    del of_another_kind["config"]["env_args"]
    (directories[3] / FILE).write_text(f"{json.dumps(of_another_kind)}\n")
    store = FolderStore([root])
    for _ in range(2):  # read, then from the index
        assert len(store.runs()) == 8
        assert sorted(
            str(directory) in problem for directory in directories[:4] for problem in store.problems
        ) == ([False] * 12 + [True] * 4)


def test_the_index_follows_what_happens(tmp_path):
    directory = write_run(tmp_path, status=None)
    store = FolderStore([tmp_path])
    (run,) = store.runs()
    assert (run.status, run.points) == ("RUNNING", 4)
    journal = Journal.resume(directory, keep=3)
    journal.metric("other", 5000, 1.0)
    (run,) = store.runs()
    assert (run.t_env, run.metrics) == (5000, ("other", "test_battle_won_mean"))
    past = time.time() - 2 * DEAD_AFTER
    os.utime(directory / FILE, (past, past))
    assert store.runs()[0].status == "DIED"
    write_run(tmp_path, seed=1)
    assert len(store.runs()) == 2
    shutil.rmtree(directory)
    assert [run.seed for run in store.runs()] == [1]


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100, None])
def test_a_damaged_index_is_rebuilt(tmp_path, damage):
    write_runs(tmp_path)
    assert len(FolderStore([tmp_path]).runs()) == 12
    index = tmp_path / INDEX
    content = index.read_bytes()
    index.write_bytes(content[:5000] + bytes(2000) + content[7000:] if damage is None else damage)
    store = FolderStore([tmp_path])
    runs = store.runs()
    assert len(runs) == 12
    assert len(store.curves(runs, "loss")) == 12


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(tmp_path, monkeypatch):
    write_runs(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # chmod doesn't stop root
    store = FolderStore([tmp_path])
    runs = store.runs()
    assert len(store.curves(runs, "loss")) == len(runs) == 12
    assert not (tmp_path / INDEX).exists()


def test_kept_curves_are_read_back_from_csv(stores, tmp_path):

    store = stores[0]
    frame = query.curves(store, select(store, Filter()), "test_battle_won_mean")
    path = tmp_path / "kept.csv"
    path.write_text(export.curve_csv(frame, "test_battle_won_mean"))
    kept = FolderStore([path])
    again = query.curves(kept, select(kept, Filter()), "test_battle_won_mean")
    order = ["map", "alg", "seed", "t_env"]
    pd.testing.assert_frame_equal(
        again.sort_values(order, ignore_index=True), frame.sort_values(order, ignore_index=True)
    )
    assert {run.status for run in kept.runs()} == {"KEPT"}


def test_curves_kept_without_run_and_time_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("alg,map,seed,t_env,test_return_mean\nqmix,3m,0,0,1\nqmix,3m,0,10,2\n")
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    (tmp_path / "c.csv").write_text("alg,map,seed,t_env,test_return_mean\nqmix,3m,0\n")
    store = FolderStore([tmp_path])
    frame = query.curves(store, select(store, Filter()), "test_return_mean")
    assert frame["value"].tolist() == [1.0, 2.0]
    assert frame["seconds"].isna().all()
    assert sorted(problem.split(" holds")[0] for problem in store.problems) == [
        str(tmp_path / name) for name in ("b.csv", "c.csv")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv", "c.csv"]


def test_the_table_holds_values_at_a_step_and_counts_short_runs(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed=seed)
    write_run(tmp_path, seed=3, steps=(0, 900))
    store = FolderStore([tmp_path])
    frame = query.curves(store, store.runs(), "test_battle_won_mean")
    (row,) = query.table(frame, at=2000).to_dict("records")
    assert (row["seeds"], row["short"], row["iqm"], row["median"]) == (3, 1, pytest.approx(0.61), 0.61)
    assert row["low"] < row["iqm"] < row["high"]
    (row,) = query.table(frame, at=1000).to_dict("records")
    assert (row["seeds"], row["iqm"]) == (4, pytest.approx(np.mean([0.32, 0.31])))
    assert query.lengths(frame) == ["The 4 runs of qmix on 3m end between 900 and 2,000 steps."]


def test_a_record_says_more_than_a_curve_that_was_kept_of_it(tmp_path):
    directory = write_run(tmp_path, steps=(0, 1000))
    store = FolderStore([tmp_path])
    for metric in ("test_battle_won_mean", "loss"):
        frame = query.curves(store, store.runs(), metric)
        (tmp_path / f"{metric}.csv").write_text(export.curve_csv(frame, metric))
    kept = tmp_path / "kept"
    kept.mkdir()
    for file in tmp_path.glob("*.csv"):
        shutil.copy(file, kept)

    alone = FolderStore([kept])
    (run,) = alone.runs()
    assert run.metrics == ("loss", "test_battle_won_mean")
    assert [len(query.curves(alone, [run], metric)) for metric in run.metrics] == [1, 2]

    journal = Journal.resume(directory, 3)
    journal.metric("test_battle_won_mean", 2000, 0.9)
    journal.metric("return_mean", 2000, 5.0)
    journal.close()
    for paths in ([tmp_path], [tmp_path, kept], [kept, tmp_path]):
        store = FolderStore(paths)
        (run,) = store.runs()
        assert query.curves(store, [run], "test_battle_won_mean")["value"].tolist() == [0.0, 0.3, 0.9]
        assert query.curves(store, [run], "return_mean")["value"].tolist() == [5.0]


def test_runs_are_found_where_they_lie_now(tmp_path):
    write_run(tmp_path / "there")
    assert FolderStore([tmp_path / "there"]).runs()  # makes the index
    (tmp_path / "there").rename(tmp_path / "here")
    store = FolderStore([tmp_path / "here"])
    (directory,) = run_directories(tmp_path / "here")
    (run,) = select(store, Filter(runs=(str(directory),)))
    assert run.where == str(directory)
    assert len(query.curves(store, [run], "test_battle_won_mean")) == 3


def test_values_that_are_no_numbers_are_kept_and_ranked_nowhere(tmp_path):
    write_run(tmp_path, scale=float("nan"))
    write_run(tmp_path, seed=1)
    store = FolderStore([tmp_path])
    frame = query.curves(store, store.runs(), "test_battle_won_mean")
    assert query.best(frame)["seed"].tolist() == [1]
    assert len(query.best(frame[frame["seed"] == 0])) == 0
    (tmp_path / "kept.csv").write_text(export.curve_csv(frame, "test_battle_won_mean"))
    kept = FolderStore([tmp_path / "kept.csv"])
    again = query.curves(kept, kept.runs(), "test_battle_won_mean")
    assert kept.problems == []
    assert again.sort_values(["seed", "t_env"])["value"].isna().tolist() == [True] * 3 + [False] * 3


def test_odd_files_of_sacred_hide_no_other_run(tmp_path):
    write_run(tmp_path)
    odd = [
        {"loss": {"steps": [1], "values": [{"py/object": "torch.Tensor"}], "timestamps": [NOON]}},
        {"loss": {"steps": [1, 2], "values": [0.5], "timestamps": [NOON]}},
        {"loss": {"steps": [], "values": [], "timestamps": []}},
    ]
    for seed, metrics in enumerate(odd, start=1):
        directory = write_run(tmp_path, seed=seed)
        sacred_files.write(directory, read_journal(directory))
        (directory / "metrics.json").write_text(json.dumps(metrics))
        (directory / FILE).unlink()
    store = FolderStore([tmp_path])
    assert [run.seed for run in store.runs() if run.metrics] == [0]
    assert len(store.runs()) == 2  # the one without a point is a run, too
    assert len(store.problems) == 2


def test_runs_of_one_name_and_several_configurations_are_told(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, t_max=7, cpu_threads=2)  # may differ
    write_run(tmp_path, alg="vdn", seed=0)
    write_run(tmp_path, alg="vdn", seed=1)
    runs = FolderStore([tmp_path]).runs()
    assert query.notices(runs) == []
    write_run(tmp_path, seed=2, lr=0.001)
    write_run(tmp_path, alg="vdn", seed=2)
    assert query.notices(FolderStore([tmp_path]).runs()) == [
        "The runs of qmix on 3m differ in lr (0.0005, 0.001) and are counted together; choose with"
        " --key KEY=VALUE."
    ]


def test_algorithms_that_learn_different_tasks_or_come_of_different_code_are_told(tmp_path):
    write_run(tmp_path, "mappo", commit="1234567890")
    write_run(tmp_path, "qmix", env="smaclite", common_reward=True, commit="abcdefghij")
    write_run(tmp_path, "mappo", "8m", env="smaclite")  # another map may well be another task
    assert query.notices(FolderStore([tmp_path]).runs()) == [
        "The runs on 3m differ in their task, common_reward (-, True), env (smaclite, smax); choose with"
        " --key KEY=VALUE.",
        "The runs on 3m are of different commits: mappo 12345678, qmix abcdefgh.",
    ]


def test_a_run_that_went_on_with_other_code_belongs_to_both_commits(tmp_path):
    directory = write_run(tmp_path, commit="abcdefghij", status=None)
    git = {"commit": "1234567890", "dirty": False}
    Journal.resume(directory, keep=1, config=read_journal(directory).config, git=git).close()
    store = FolderStore([tmp_path])
    (run,) = store.runs()
    assert (run.commit, run.commits) == ("1234567890", ("abcdefghij", "1234567890"))
    for commit in run.commits:
        assert select(store, Filter(commit=commit[:4])) == [run]
    (notice,) = query.notices([run])
    assert notice == f"{run.run} (qmix on 3m) was trained at commits abcdefgh and 12345678."


def test_a_run_of_sacreds_files_alone_is_found_by_its_commit(tmp_path):
    directory = write_run(tmp_path, commit="abcdefghij")
    record = read_journal(directory)
    record.started["experiment"] = {"repositories": [record.started["git"]]}
    sacred_files.write(directory, record)
    (directory / FILE).unlink()
    (run,) = select(FolderStore([tmp_path]), Filter(commit="abcd"))
    assert run.commits == ("abcdefghij",)


def test_days_are_those_that_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        write_run(tmp_path)
        store = FolderStore([tmp_path])
        (run,) = store.runs()
        (started,) = query.runs([run])["started"]
        day = started.date()
        assert select(store, Filter(since=day, until=day)) == [run]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_algorithms_that_end_at_different_steps_are_told(tmp_path):
    write_run(tmp_path, "qmix")
    write_run(tmp_path, "mappo", steps=(0, 1000, 5000))
    store = FolderStore([tmp_path])
    frame = query.curves(store, store.runs(), "test_battle_won_mean")
    assert query.lengths(frame) == ["On 3m the algorithms end at different steps: mappo 5,000, qmix 2,000."]
    assert query.lengths(frame[frame["t_env"] <= 1000]) == []
    write_run(tmp_path, "qmix", seed=1, steps=(0, 1000, 5000))
    store = FolderStore([tmp_path])
    scores, left_out = query.scores(query.curves(store, store.runs(), "test_battle_won_mean"), 5000)
    assert {alg: [len(values) for values in there] for alg, there in scores.items()} == {
        "mappo": [1], "qmix": [1],
    }  # fmt: skip
    assert left_out == ["Runs of qmix on 3m that end before step 5,000 are left out: 1."]


def test_tests_of_many_runs_do_not_make_the_ends_of_algorithms_differ(tmp_path):
    for seed in range(5):  # whose tests fall on different steps, 100 apart in a run
        write_run(tmp_path, "qmix", seed=seed, steps=[seed * 10 + step for step in range(0, 1001, 100)])
    write_run(tmp_path, "mappo", steps=range(90, 1091, 100))
    store = FolderStore([tmp_path])
    assert query.lengths(query.curves(store, store.runs(), "test_battle_won_mean")) == []


def test_notices_name_what_a_comparison_lacks(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "qmix", seed=seed, versions={"game_build": "75689"})
    write_run(tmp_path, "mappo", seed=1, versions={"game_build": "69232"})
    write_run(tmp_path, "mappo", seed=1)
    dead = write_run(tmp_path, "iql", seed=0, status=None)
    past = time.time() - 2 * DEAD_AFTER
    os.utime(dead / FILE, (past, past))
    text = "\n".join(query.notices(FolderStore([tmp_path]).runs()))
    assert "Died without an end" in text
    assert "mappo on 3m lacks seed 0, 2" in text
    assert "iql on 3m lacks seed 1, 2" in text
    assert "mappo on 3m has seed 1 more than once" in text
    assert "different StarCraft II builds, kept apart: 69232, 75689" in text


def test_scores_compare_only_maps_that_all_have(tmp_path):
    root = write_runs(tmp_path)
    write_run(root, "iql", "3m")
    store = FolderStore([root])
    frame = query.curves(store, store.runs(), "test_battle_won_mean")
    scores, left_out = query.scores(frame)
    assert {alg: [len(values) for values in strata] for alg, strata in scores.items()} == {
        "iql": [1], "mappo": [3], "qmix": [3],
    }  # fmt: skip
    assert left_out == ["8m is left out: it has no such result of iql."]
    with pytest.raises(ConfigError, match="no map on which all"):
        query.scores(frame[(frame["map"] != "3m") | (frame["alg"] == "iql")])


def test_configuration_differences(tmp_path):
    write_run(tmp_path, "qmix", seed=0, lr=0.001)
    write_run(tmp_path, "qmix", seed=1, lr=0.002)
    write_run(tmp_path, "mappo", seed=0, epochs=4)
    differences = query.differences(FolderStore([tmp_path]).runs())
    assert json.loads(differences.to_json(orient="index")) == {
        "epochs": {"mappo": "4", "qmix": "-"},
        "lr": {"mappo": "0.0005", "qmix": "0.001 | 0.002"},
    }


def test_a_wrong_password_is_one_sentence(tmp_path):
    server = MongoServer(tmp_path, "reader", "secret").start()
    try:
        assert_error = pytest.raises(ConfigError, match="refused the user name or the password")
        with assert_error as refusal:
            MongoStore(server.uri.replace("secret", "wrong")).runs()
        assert "wrong" not in str(refusal.value)
        assert MongoStore(server.uri).runs() == []
    finally:
        server.kill()


def test_curves_up_to_a_step_end_with_the_first_point_from_there_on(folder):
    store = FolderStore([folder])
    chosen = select(store, Filter(alg=("qmix",), map=("3m",)))
    frame = query.curves(store, chosen, "test_battle_won_mean")
    for step in (500, 1000):
        assert query.up_to(frame, step).groupby("run")["t_env"].apply(list).tolist() == [[0, 1000]] * 3
    assert query.up_to(frame, 10**6).equals(frame)
