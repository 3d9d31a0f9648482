from pathlib import Path

import pytest
import yaml

from utils import config
from utils.config import Request, compose, flatten, map_name, parse_command_line
from utils.constraints import ConfigError

DEFAULT = """
name: unnamed
env: none
env_args: {}
lr: 0.5
batch_size: 32
use_rnn: True
layers: [64, 64]
seed: null
mixer: qmix
runner: episode
gamma: 0.99
"""
ENV = """
env: battle
lr: 0.25
env_args:
  map_name: 3m
  difficulty: "7"
  kwargs: {}
"""
ALG = """
name: alg
lr: 1e-3
target: 200
"""
CONSTRAINTS = """
counts: [batch_size]
seeds: [seed]
positive: [lr, target]
fractions: [gamma]
nullable: [mixer]
choices: {runner: [episode, parallel]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations in place of the real one."""
    files = {"default": DEFAULT, "envs/battle": ENV, "algs/alg": ALG, "constraints": CONSTRAINTS}
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(config, "CONFIG_DIR", tmp_path)
    return tmp_path


def _compose(*assignments: str) -> dict:
    argv = ["--config=alg", "--env-config=battle"]
    return compose(parse_command_line([*argv, "with", *assignments] if assignments else argv))


@pytest.mark.usefixtures("folder")
class TestComposition:
    def test_later_layers_win_and_groups_merge(self):
        composed = _compose("env_args.map_name=8m")
        assert composed["lr"] == 0.001
        assert composed["env"] == "battle"
        assert composed["env_args"] == {"map_name": "8m", "difficulty": "7", "kwargs": {}}

    def test_environment_wins_over_default(self, folder):
        (folder / "algs" / "alg.yaml").write_text("name: alg\ntarget: 1")
        assert _compose()["lr"] == 0.25

    @pytest.mark.parametrize(
        ("assignment", "value"),
        [
            ("lr=3", 3), ("lr=1e-4", 1e-4), ("target=0.01", 0.01), ("batch_size=1e2", 100),
            ("use_rnn=false", False), ("layers=[8]", [8]), ("seed=3", 3), ("seed=null", None),
            ("mixer=3", "3"), ("mixer=None", None), ("name=7", "7"), ("name='a b'", "a b"),
            ("env_args.difficulty=3", "3"), ("env_args.kwargs.sight=2", 2), ("env_args.map_name=a=b", "a=b"),
            ("env_args.kwargs.field_size=(8,8)", [8, 8]),
        ],
    )  # fmt: skip
    def test_values_take_the_type_of_their_default(self, assignment, value):
        got = flatten(_compose(assignment))[assignment.partition("=")[0]]
        assert (got, type(got)) == (value, type(value))

    @pytest.mark.parametrize(
        ("assignment", "words"),
        [
            ("batchsize=3", ["no key 'batchsize'", "did you mean batch_size?"]),
            ("map_name=8m", ["did you mean env_args.map_name?"]),
            ("env_args.mapname=8m", ["did you mean env_args.map_name?"]),
            ("env_args=3", ["env_args is a group of keys", "env_args.map_name"]),
            ("env_args.map_name.x=3", ["no key"]),
            ("$lr=3", ["no key '$lr'"]),
            ("env_args.kwargs.$a=3", ["'$'"]),
            ("batch_size=-1", ["batch_size must be a whole number from 1 on, not -1"]),
            ("batch_size=0", ["whole number from 1 on"]),
            ("batch_size=1.5", ["whole number"]),
            ("batch_size=True", ["whole number"]),
            ("batch_size=many", ["whole number", "'many'"]),
            ("seed=-1", ["whole number from 0 to"]),
            ("seed=4294967296", ["whole number from 0 to"]),
            ("lr=0", ["a number above 0"]),
            ("lr=1e999", ["a number above 0"]),
            ("lr=nan", ["a number above 0"]),
            ("lr=null", ["lr must not be null"]),
            ("gamma=1.5", ["gamma must be a number from 0 to 1, not 1.5"]),
            ("use_rnn=1", ["use_rnn must be True or False, not 1"]),
            ("layers=64", ["layers must be a list"]),
            ("runner=paralel", ["one of episode, parallel", "did you mean parallel?"]),
        ],
    )
    def test_bad_assignments_are_answered_with_one_sentence(self, assignment, words):
        with pytest.raises(ConfigError) as caught:
            _compose(assignment)
        sentence = str(caught.value)
        assert all(word in sentence for word in words), sentence
        assert "\n" not in sentence

    def test_an_algorithm_may_build_on_another(self, folder):
        (folder / "algs" / "derived.yaml").write_text("base: alg\nname: derived\ntarget: 5")
        (folder / "algs" / "again.yaml").write_text("base: derived\nname: again\nlr: 0.125")
        request = parse_command_line(["--config=again", "--env-config=battle", "with", "target=7"])
        composed = compose(request)
        assert (composed["name"], composed["lr"], composed["target"]) == ("again", 0.125, 7)
        assert compose(Request("derived", "battle", ()))["lr"] == 0.001
        assert "base" not in composed

    @pytest.mark.parametrize(
        ("base", "words"),
        [
            ("agl", ["algs/alg.yaml", "'agl'", "there are: alg, other"]),
            ("alg", ["algs/alg.yaml", "builds on alg itself"]),
            ("other", ["algs/other.yaml", "builds on other itself"]),
            ("../default", ["'../default'"]),
        ],
    )
    def test_a_base_that_cannot_be_one_is_named(self, folder, base, words):
        (folder / "algs" / "alg.yaml").write_text(f"base: {base}")
        (folder / "algs" / "other.yaml").write_text("base: alg")
        with pytest.raises(ConfigError) as caught:
            _compose()
        assert all(word in str(caught.value) for word in words), caught.value

    def test_values_of_files_are_checked_too(self, folder):
        (folder / "algs" / "alg.yaml").write_text("batch_size: -3")
        with pytest.raises(ConfigError, match="batch_size must be a whole number"):
            _compose()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.b: 1", "'a.b' in algs/alg.yaml"),
        ("a: {$b: 1}", "'$b' in algs/alg.yaml"),
        ("on: 1", "True in algs/alg.yaml"),
        ("a: [", "algs/alg.yaml is not valid YAML"),
        ("just words", "must hold keys"),
    ],
)
def test_bad_files_are_named(folder, text, words):
    (folder / "algs" / "alg.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        _compose()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--env-config=battle", "--config=... is missing; there are: alg"),
        ("--config=alg", "--env-config=... is missing; there are: battle"),
        ("--config=agl --env-config=battle", "no algorithm 'agl' (did you mean alg?); there are: alg"),
        ("--config=alg --env-config=battel", "no environment 'battel' (did you mean battle?)"),
        ("--config=../default --env-config=battle", "no algorithm '../default'"),
        ("--config=alg --env-config=battle lr=1", "'with' is missing before 'lr=1'"),
        ("--config=alg --env-config=battle with lr", "'lr' behind 'with' is not of the form key=value"),
        ("--config=alg --env-config=battle with =1", "not of the form key=value"),
        ("--config=alg --env-config=battle --fast", "Unrecognized arguments: --fast"),
        ("--conf=alg --env-config=battle", "Unrecognized arguments: --conf=alg"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_command_lines_are_answered_with_one_sentence(argv, words):
    with pytest.raises(ConfigError) as caught:
        parse_command_line(argv.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_order_of_the_command_line_does_not_matter():
    request = Request("alg", "battle", (("lr", "1"), ("seed", "2")))
    assert parse_command_line(["with", "lr=1", "--config", "alg", "seed=2", "--env-config=battle"]) == request


def test_map_name_is_fit_for_a_folder():
    assert map_name({"env": "gymma", "env_args": {"key": "lbforaging:Foraging-8x8-2p-3f-v3"}}) == (
        "lbforaging_Foraging-8x8-2p-3f-v3"
    )
    assert map_name({"env": "smax", "env_args": {"map_name": "3m"}}) == "3m"
    assert map_name({"env": "own", "env_args": {}}) == "own"


def test_every_key_of_the_real_files_has_a_comment():
    folder = Path(config.__file__).parents[1] / "config"
    for path in [folder / "default.yaml", *folder.glob("*/*.yaml")]:
        above = ""
        for line in filter(None, path.read_text().splitlines()):
            is_key = ":" in line and not line.lstrip().startswith("#") and not line.endswith(":")
            assert not is_key or "#" in line or above.lstrip().startswith("#"), f"{path.name}: {line}"
            above = line


def test_real_constraints_name_keys_that_exist():
    folder = Path(config.__file__).parents[1] / "config"
    known = set()
    for path in [folder / "default.yaml", *folder.glob("algs/*.yaml"), *folder.glob("envs/*.yaml")]:
        known |= set(flatten(yaml.safe_load(path.read_text())))
    table = yaml.safe_load((folder / "constraints.yaml").read_text())
    named = {path for group in table.values() for path in group}
    assert named <= known, f"unknown: {sorted(named - known)}"
