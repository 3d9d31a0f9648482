"""The command line of results.py."""

import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from samples import write_run, write_runs

import results
from records import export, query
from records.folder import FolderStore
from records.journal import FILE, read_journal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_runs(tmp_path_factory.mktemp("results"))
    write_run(root, "gawm", "3m", 0, metric="wm_obs_loss", steps=(0, 500))
    return root


@pytest.fixture
def ask(folder, capsys):
    """Ask a question about the sample runs; returns exit code, answer and notes."""

    def run(*words: str) -> tuple[int, str, str]:
        code = results.main([words[0], "--dir", str(folder), *words[1:]])
        answer = capsys.readouterr()
        return code, answer.out, answer.err

    return run


def test_list_names_every_run_and_what_is_missing(ask):
    code, out, err = ask("list")
    assert (code, out.count("\n")) == (0, 14)
    assert "gawm on 3m lacks seed 1, 2" in err


def test_csv_and_json_hold_the_same_runs(ask):
    _, as_csv, _ = ask("list", "--alg", "qmix", "--format", "csv")
    _, as_json, _ = ask("list", "--alg", "qmix", "--format", "json")
    rows = list(csv.DictReader(io.StringIO(as_csv)))
    assert [row["run"] for row in rows] == [row["run"] for row in json.loads(as_json)]
    assert {row["seed"] for row in rows} == {"0", "1", "2"}


def test_show_tells_all_about_a_run(ask, folder):
    directory = folder / "sacred" / "qmix" / "3m" / "1"
    for name in (read_journal(directory).uid[:6], str(directory)):
        code, out, _ = ask("show", "--run", name)
        assert code == 0
        for words in (
            "qmix on 3m, seed 0, COMPLETED",
            "test_battle_won_mean: 0.6 (3 points",
            '"lr": 0.0005',
            "abc123",
        ):
            assert words in out


def test_table_and_best(ask, tmp_path):
    code, out, _ = ask("table", "--at", "1000", "--alg", "mappo", "--format", "csv")
    (row, _) = csv.DictReader(io.StringIO(out))
    assert (code, row["map"], row["seeds"], float(row["iqm"])) == (0, "3m", "3", pytest.approx(0.465))
    code, out, _ = ask("best", "--top", "1", "--format", "json", "--map", "8m")
    (best,) = json.loads(out)
    assert (best["alg"], best["seed"], best["best"]) == ("mappo", 2, pytest.approx(0.93))
    code, out, _ = ask("table", "--format", "latex", "--out", str(tmp_path / "a" / "table.tex"))
    text = (tmp_path / "a" / "table.tex").read_text()
    assert r"3m & $\mathbf{0.92}" in text
    assert text.count(r"\\") == 3
    code, out, _ = ask("table", "--at", "10000000", "--format", "latex")
    assert code == 0
    assert "3m & --" in out


def test_values_of_keys_are_read_as_on_the_command_line(ask):
    found = [ask("list", "--key", f"lr={spelling}")[1] for spelling in ("0.0005", "5e-4")]
    assert found[0] == found[1]


def test_curves_in_the_form_of_marl_eval(ask):
    _, out, _ = ask("curves", "--format", "marl-eval", "--metric", "test_battle_won_mean")
    runs = json.loads(out)["smax"]["3m"]["qmix"]
    assert sorted(runs) == ["seed_0", "seed_1", "seed_2"]
    steps = [step for name, step in runs["seed_1"].items() if name.startswith("step_")]
    assert [step["step_count"] for step in steps] == [0, 1000, 2000]
    assert [step["test_battle_won_mean"] for step in steps] == [[0.01], [0.31], [0.61]]
    assert runs["seed_1"]["absolute_metrics"] == {"test_battle_won_mean": [0.61]}


def test_runs_with_one_seed_both_go_to_marl_eval(tmp_path):
    for _ in range(2):
        write_run(tmp_path)
    store = FolderStore([tmp_path])
    runs = store.runs()
    frame = query.curves(store, runs, "test_battle_won_mean")
    tree = export.marl_eval(frame, "test_battle_won_mean", {run.run: "smax" for run in runs})
    assert sorted(tree["smax"]["3m"]["qmix"]) == ["seed_0", f"seed_0_{runs[1].run}"]


BOTH = ["--alg", "qmix", "mappo"]
PLOTS = {
    "curves.png": [],
    "median.pdf": [*BOTH, "--band", "median"],
    "two.svg": [*BOTH, "--metric", "loss", "test_battle_won_mean", "--x", "hours"],
    "losses.png": ["--kind", "losses"],
    "first_steps.png": [*BOTH, "--at", "1000"],
    "aggregate.png": ["--kind", "aggregate", *BOTH],
    "profile.png": ["--kind", "profile", *BOTH, "--at", "1000"],
    "improvement.png": ["--kind", "improvement", *BOTH],
}


@pytest.mark.parametrize("name", PLOTS)
def test_pictures_are_drawn(ask, tmp_path, name):
    path = tmp_path / "plots" / name
    code, out, err = ask("plot", *PLOTS[name], "--out", str(path))
    assert (code, out) == (0, f"Drawn in {path}\n"), err
    assert path.stat().st_size > 5000


def test_the_report_is_one_file_that_needs_nothing_else(ask, folder, tmp_path):
    animation = folder / "sacred" / "qmix" / "3m" / "1" / "battle.gif"
    animation.write_bytes(b"GIF89a" + bytes(50))
    path = tmp_path / "report.html"
    assert ask("report", "--out", str(path), "--title", "A <b> & c")[0] == 0
    page = path.read_text()
    assert "<title>A &lt;b&gt; &amp; c</title>" in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:|#)', page)) == {"data:", "#"}
    assert "http" not in re.sub(r'base64,[^"]*', "", page)
    for words in ("image/png", "image/gif", "qmix on 3m, seed 0: battle.gif", "lacks seed", "wm_obs_loss"):
        assert words in page


BAD = {
    "unknown metric": (["table", "--metric", "tset_battle_won_mean"], "did you mean test_battle_won_mean"),
    "two metrics": (["table", "--metric", "loss", "wm_obs_loss"], "one --metric"),
    "report on two metrics": (["report", "--metric", "loss", "wm_obs_loss"], "one --metric"),
    "no best run": (["best", "--top", "0"], "'0' is no whole number from 1 on"),
    "negative step": (["table", "--at", "-5"], "--at"),
    "half a step": (["table", "--at", "0.5"], "'0.5' is no whole number from 0 on"),
    "one of two selected": (["list", "--map", "3m", "9m"], "no run with map '9m'"),
    "a misspelt one of two": (["list", "--alg", "qmix", "mapo"], "'mapo' (did you mean mappo?)"),
    "a seed too many": (["list", "--seed", "0", "9"], "no run with seed 9"),
    "nobody so far": (
        ["plot", "--kind", "profile", "--at", "1e6", "--out", "a.png"],
        "end before step 1,000,000",
    ),
    "two places": (["list", "--mongo", "mongodb://here"], "--dir"),
    "nothing selected": (["list", "--map", "9m"], "no run with map '9m'"),
    "unknown key": (["list", "--key", "lrr=1"], "did you mean lr"),
    "broken day": (["list", "--since", "yesterday"], "2030-12-31"),
    "picture's form": (["plot", "--out", "curves.gif"], ".png"),
    "unwritable": (["list", "--out", "/dev/null/x"], "can't be written"),
    "an option for others": (
        ["plot", "--kind", "quality", "--at", "9", "--out", "a.png"],
        "has no use for --at; curves",
    ),
    "a metric of losses": (
        ["plot", "--kind", "losses", "--metric", "loss", "--out", "a.png"],
        "no use for --metric",
    ),
    "a band of scores": (
        ["plot", "--kind", "profile", "--band", "median", "--out", "a.png"],
        "no use for --band",
    ),
    "one algorithm": (["plot", "--kind", "improvement", "--alg", "qmix", "--out", "a.png"], "two algorithms"),
    "show nothing": (["show"], "--run"),
    "unknown command": (["lst"], "invalid choice: 'lst'"),
    "unknown option": (["list", "--mapp", "3m"], "--mapp"),
    "no folder": (["list", "--dir", "/nowhere"], "There is no /nowhere"),
    "no address": (["list", "--mongo"], "MONGO_URI"),
    "wrong address": (["list", "--mongo", "localhost"], "mongodb://"),
    "nobody there": (["verify", "--mongo", "mongodb://127.0.0.1:9/x"], "127.0.0.1:9 doesn't answer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(folder, capsys, monkeypatch, tmp_path, case):
    monkeypatch.delenv("MONGO_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (command, *words), expected = BAD[case]
    elsewhere = ("unknown command", "no folder", "no address", "wrong address")
    place = [str(folder)] if command == "verify" else ["--dir", str(folder)]
    code = results.main([command, *([] if case in elsewhere else place), *words])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_runs_without_the_metric_are_named(ask):
    code, out, err = ask("table", "--map", "3m")
    assert (code, "gawm" in out) == (0, False)
    assert "note: Left out, as they have no test_battle_won_mean: 1 run of gawm on 3m.\n" in err
    assert "Left out" not in ask("table", "--alg", "qmix")[2]


def test_curves_without_times_are_named_where_times_are_drawn(folder, tmp_path, capsys):
    kept = tmp_path / "kept.csv"
    kept.write_text("alg,map,seed,t_env,test_battle_won_mean\nvdn,9m,0,0,0.1\nvdn,9m,0,100,0.2\n")
    words = ["--dir", str(folder), str(kept), "--x", "hours", "--out", str(tmp_path / "curves.png")]
    assert results.main(["plot", *words]) == 0
    assert "note: Left out, as they have no times: 1 run of vdn on 9m.\n" in capsys.readouterr().err


def test_where_nothing_can_be_read_the_reason_is_told(tmp_path, capsys):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    assert results.main(["list", "--dir", str(wrong)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: There is no run in {wrong}: {wrong} holds no curves (")
    assert error.count("\n") == 1


def test_a_damaged_run_is_a_note(tmp_path, capsys):
    write_run(tmp_path, seed=0)
    (write_run(tmp_path, seed=1) / FILE).write_text("{")
    assert results.main(["list", "--dir", str(tmp_path)]) == 0
    answer = capsys.readouterr()
    assert answer.out.count("COMPLETED") == 1
    assert "note: The journal in" in answer.err


def test_damaged_lines_of_a_journal_are_a_note(tmp_path, capsys):
    file = write_run(tmp_path, seed=0) / FILE
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], "garbage{", *lines[4:]]) + "\n")
    uid = json.loads(lines[0])["uid"]
    for words in (["list"], ["show", "--run", uid], ["curves"]):
        assert results.main([*words, "--dir", str(tmp_path)]) == 0
        assert f"note: 1 lines of the journal of {uid}" in capsys.readouterr().err


def test_a_run_is_named_by_its_directory_wherever_it_is(tmp_path, capsys):
    directory = write_run(tmp_path, seed=0)
    assert results.main(["show", "--run", str(directory)]) == 0
    assert str(directory) in capsys.readouterr().out


def test_sync_and_verify_by_their_commands(folder, mongo_uri):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "src" / "results.py"), *words]
        return subprocess.run(
            command, env=os.environ | {"MONGO_URI": mongo_uri}, capture_output=True, text=True, check=False
        )

    done = run("verify", str(folder))
    assert (done.returncode, done.stderr.count("doesn't have this run")) == (1, 13)
    done = run("sync", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    done = run("verify", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "13 runs compared; no complaints\n"
    assert (
        run("list", "--mongo", "--format", "csv").stdout
        == run("list", "--dir", str(folder), "--format", "csv").stdout
    )


@pytest.mark.slow
def test_five_hundred_runs_answer_within_two_seconds(tmp_path, mongo_uri):
    for i in range(500):
        alg, task, seed = f"alg{i % 5}", f"map{i // 5 % 10}", i // 50
        write_run(tmp_path, alg, task, seed, steps=tuple(range(0, 199 * 100, 100)))
    assert results.main(["sync", str(tmp_path), "--mongo", mongo_uri]) == 0
    times = {}
    for place in (["--dir", str(tmp_path)], ["--mongo", mongo_uri]):
        for command in ("list", "list", "table"):
            words = [sys.executable, str(ROOT / "src" / "results.py"), command, *place]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times[command, place[0]] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            assert done.stdout.count("\n") == (501 if command == "list" else 51)
    assert max(times.values()) < 2, times  # of processor time: a test machine does other work besides
