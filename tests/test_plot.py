import json
from pathlib import Path

import numpy as np
import pytest

from plot import Curve, band, main, read_csv, read_run, write_csv


def _run_directory(path: Path, alg: str, seed: int, metric: str = "test_battle_won_mean") -> Path:
    path.mkdir(parents=True)
    config = {"name": alg, "seed": seed, "env": "smax", "env_args": {"map_name": "3m"}}
    steps, values = [0, 1000, 2000 + seed], [0.0, 0.25, 0.5 + seed / 10]
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.json").write_text(json.dumps({metric: {"steps": steps, "values": values}}))
    return path


def _curve(steps: list[int], values: list[float]) -> Curve:
    return Curve("qmix", "3m", 0, "test_battle_won_mean", np.array(steps), np.array(values))


def test_run_directory_is_read(tmp_path):
    curve = read_run(_run_directory(tmp_path / "1", "qmix", 2))
    assert (curve.alg, curve.map, curve.seed, curve.metric) == ("qmix", "3m", 2, "test_battle_won_mean")
    np.testing.assert_array_equal(curve.steps, [0, 1000, 2002])
    np.testing.assert_allclose(curve.values, [0, 0.25, 0.7])


def test_results_of_different_builds_of_starcraft_are_different_curves(tmp_path):
    names = []
    for i, version in enumerate(["4.6.2", "4.10.0", "stand-in"]):
        directory = _run_directory(tmp_path / str(i), "qmix", i)
        (directory / "versions.json").write_text(json.dumps({"game_version": version, "numpy": "2.4.6"}))
        names.append(read_run(directory).alg)
    assert names == [f"qmix (StarCraft II {name})" for name in ("4.6.2", "4.10.0", "stand-in")]


def test_return_is_read_where_nothing_is_won(tmp_path):
    directory = _run_directory(tmp_path / "1", "qmix", 0, "test_return_mean")
    assert read_run(directory).metric == "test_return_mean"


def test_curves_survive_a_csv_file(tmp_path):
    curves = [read_run(_run_directory(tmp_path / str(seed), "qmix", seed)) for seed in range(3)]
    write_csv(curves, tmp_path / "out" / "curves.csv")
    text = (tmp_path / "out" / "curves.csv").read_text()
    assert text.startswith("alg,map,seed,t_env,test_battle_won_mean\nqmix,3m,0,0,0\n")
    for got, expected in zip(read_csv(tmp_path / "out" / "curves.csv"), curves, strict=True):
        assert (got.alg, got.map, got.seed, got.metric) == ("qmix", "3m", expected.seed, expected.metric)
        np.testing.assert_array_equal(got.steps, expected.steps)
        np.testing.assert_allclose(got.values, expected.values)


def test_band_covers_the_steps_all_curves_have():
    steps, mean, low, high = band([_curve([0, 100, 200], [0, 1, 1]), _curve([0, 50, 150], [0, 0, 1])])
    np.testing.assert_array_equal(steps, [0, 50, 100, 150])
    np.testing.assert_allclose(low, [0, 0, 0.5, 1])
    np.testing.assert_allclose(high, [0, 0.5, 1, 1])
    np.testing.assert_allclose(mean, (low + high) / 2)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture_is_drawn_and_its_path_printed(tmp_path, capsys, suffix):
    runs = [_run_directory(tmp_path / alg, alg, 0) for alg in ("qmix", "mappo")]
    picture = tmp_path / "plots" / f"curves.{suffix}"
    assert main([*map(str, runs), "--out", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    assert picture.stat().st_size > 5000


def test_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    good, bad = _run_directory(tmp_path / "1", "qmix", 0), _run_directory(tmp_path / "2", "qmix", 1)
    (bad / "metrics.json").write_text("{")
    out = tmp_path / "curves.csv"
    assert main([str(good), str(bad), str(tmp_path / "absent.csv"), "--csv", str(out)]) == 0
    left_out = capsys.readouterr().err
    assert str(bad) in left_out
    assert "absent.csv" in left_out
    assert [curve.seed for curve in read_csv(out)] == [0]


def test_nothing_to_show_is_an_error(tmp_path, capsys):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main([str(tmp_path / "other.csv"), "--out", str(tmp_path / "x.png")]) == 2
    assert "no curve to show" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
