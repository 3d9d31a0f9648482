"""The stand-in for StarCraft II keeps the rules that PySC2 and SMAC rely on."""

import random
import socket
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2_stand_in import BUILD, GAME_VERSION, wire
from sc2_stand_in.battle import ALLY, ENEMY, MAPS, Battle
from sc2_stand_in.faults import Faults
from sc2_stand_in.game import Game
from sc2_stand_in.installing import GAME
from sc2_stand_in.wire import blob, number, real

CREATE, JOIN, QUIT, OBSERVATION, ACTION, STEP, SAVE_REPLAY, PING, DEBUG = 1, 2, 8, 10, 11, 12, 15, 19, 20
LAUNCHED, INIT_GAME, IN_GAME = 1, 2, 3
BATTLES = [name for name, (allies, _) in MAPS.items() if allies]


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 2**64 - 1) | st.binary() | st.floats(width=32))))
def test_what_is_encoded_is_decoded(fields):
    encoders = {int: number, bytes: blob, float: real}
    found = wire.decode(b"".join(encoders[type(value)](field, value) for field, value in fields))
    expected: dict[int, list] = {}
    for field, value in fields:
        expected.setdefault(field, []).append(value)
    assert repr(dict(found)) == repr(expected)  # as texts, in which nan equals nan


class Session:
    """Requests to a game in this process."""

    def __init__(self, tmp_path, switch=""):
        self.game, self.ids = Game(Faults(switch, tmp_path)), 0

    def ask(self, kind, content=b""):
        """The response's fields."""
        self.ids += 1
        answer = self.game.answer(blob(kind, content) + number(97, self.ids))
        response = wire.decode(answer)
        assert response[97] == [self.ids]
        return response

    def start(self, map_name="3m", difficulty=7, seed=1):
        local_map = blob(1, f"SMAC_Maps/{map_name}.SC2Map") + blob(7, b"map")
        players = blob(3, number(1, 1)) + blob(3, number(1, 2) + number(3, difficulty))
        self.ask(CREATE, blob(1, local_map) + players + number(5, seed))
        assert self.ask(JOIN)[99] == [IN_GAME]
        return self

    def units(self):
        """Tag, owner and health of all units."""
        raw = wire.decode(wire.decode(self.ask(OBSERVATION)[OBSERVATION][0])[3][0])[5][0]
        found = [wire.decode(unit) for unit in wire.decode(raw)[2]]
        return [(unit[3][0], unit[5][0], unit[14][0]) for unit in found]


def test_the_game_says_that_it_is_a_stand_in(tmp_path):
    ping = wire.decode(Session(tmp_path).ask(PING)[PING][0])
    assert ping[1] == [GAME_VERSION.encode()]
    assert ping[4] == [BUILD]


def test_requests_out_of_order_are_refused_with_the_status_as_it_is(tmp_path):
    session = Session(tmp_path)
    for kind in (JOIN, OBSERVATION, STEP, ACTION, DEBUG, SAVE_REPLAY):
        response = session.ask(kind)
        assert response[98]
        assert response[99] == [LAUNCHED]
    session.start()
    assert session.ask(CREATE)[98]
    assert session.game.answer(blob(QUIT, b"")) is None


def test_a_map_that_is_not_there_is_an_error_of_the_request(tmp_path):
    unknown = blob(1, blob(1, "SMAC_Maps/9m.SC2Map") + blob(7, b"map"))
    empty = blob(1, blob(1, "SMAC_Maps/3m.SC2Map"))
    for request in (unknown, empty):
        response = Session(tmp_path).ask(CREATE, request)
        assert wire.decode(response[CREATE][0])[1]
        assert response[99] == [LAUNCHED]


def test_units_that_are_killed_come_back_with_other_tags(tmp_path):
    session = Session(tmp_path).start("8m")
    before = session.units()
    assert [owner for _, owner, _ in before] == [ALLY] * 8 + [ENEMY] * 8
    tags = b"".join(number(1, tag) for tag, _, _ in before)
    session.ask(DEBUG, blob(1, blob(4, tags)))
    assert session.units() == []
    session.ask(STEP, number(1, 3))
    after = session.units()
    assert len(after) == 16
    assert not {tag for tag, _, _ in before} & {tag for tag, _, _ in after}


def test_an_order_to_attack_costs_the_enemy_health(tmp_path):
    session = Session(tmp_path).start()
    allies = [tag for tag, owner, _ in session.units() if owner == ALLY]
    target = next(tag for tag, owner, _ in session.units() if owner == ENEMY)
    for _ in range(12):
        commands = [number(1, 23) + number(3, target) + number(4, tag) for tag in allies]
        session.ask(ACTION, b"".join(blob(1, blob(1, blob(1, command))) for command in commands))
        session.ask(STEP, number(1, 8))
    health = {tag: health for tag, _, health in session.units()}
    assert health.get(target, 0.0) < 45


def _play(map_name, difficulty, seed, loops=2000):
    """Allies that attack the nearest enemy; returns how much health they have left."""
    battle = Battle(map_name, difficulty, seed)
    for _ in range(loops // 8):
        allies, enemies = list(battle.team(ALLY)), list(battle.team(ENEMY))
        if not allies or not enemies:
            break
        for ally in allies:
            nearest = min(enemies, key=lambda foe: (foe.x - ally.x) ** 2 + (foe.y - ally.y) ** 2)
            battle.attack(ally.tag, nearest.tag)
        battle.step(8)
    return sum(unit.health for unit in battle.team(ALLY))


@pytest.mark.parametrize("map_name", BATTLES)
def test_all_maps_can_be_fought_to_an_end(map_name):
    battle = Battle(map_name, 7, seed=1)
    for _ in range(600):
        battle.step(8)
        if not list(battle.team(ALLY)):
            return
    assert map_name == "2s_vs_1sc"  # the one enemy cannot walk, and nobody goes there


def test_the_seed_decides_the_battle_and_difficulty_makes_it_harder():
    assert _play("3m", 3, 5) == _play("3m", 3, 5)
    assert len({_play("3m", 3, seed) for seed in range(5)}) > 1
    easy, hard = (sum(_play("8m", level, seed) for seed in range(3)) for level in (1, 10))
    assert easy > hard


def test_faults_strike_as_often_as_asked_for(tmp_path):
    kinds = [Faults("refuse:1:2", tmp_path).refuses for _ in range(4)]
    assert kinds == [True, True, False, False]
    garbage = Faults("garbage:2", tmp_path)
    garbage.count_step()
    assert garbage.spoil(b"good") == b"good"
    garbage.count_step()
    assert garbage.spoil(b"good") != b"good"


def _frame(data):
    """A client's frame: of type text, as PySC2's are, and masked."""
    mask = bytes(random.randrange(256) for _ in range(4))
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    return struct.pack(">BB", 0x81, 0x80 | len(data)) + mask + masked


def test_the_program_serves_a_websocket_and_quits_when_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = [
        "-listen",
        "127.0.0.1",
        "-port",
        str(port),
        "-dataDir",
        str(tmp_path),
        "-tempDir",
        str(tmp_path),
    ]
    process = subprocess.Popen([sys.executable, "-S", "-E", str(GAME), *options])
    try:
        client = _connect(port)
        client.sendall(
            b"GET /sc2api HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        stream = client.makefile("rb")
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b"101" in head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # the example of RFC 6455
        client.sendall(_frame(blob(PING, b"") + number(97, 5)))
        kind, size = stream.read(2)
        assert kind == 0x82  # binary: the response is no UTF-8
        assert wire.decode(stream.read(size))[97] == [5]
        client.sendall(_frame(blob(QUIT, b"")))
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()


def _connect(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the stand-in does not listen")
