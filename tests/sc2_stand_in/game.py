"""The program that PySC2 starts in place of the game: answers requests until it is told to quit.

game.py -listen HOST -port PORT -dataDir FOLDER -tempDir FOLDER [...]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sc2_stand_in import wire
from sc2_stand_in.battle import ALLY, BORDER, FIRST_ALLY_ID, MAPS, OWN_UNITS, SIZE, Battle, Unit
from sc2_stand_in.faults import Faults
from sc2_stand_in.installing import BUILD, FAULT_VARIABLE, GAME_VERSION
from sc2_stand_in.websocket_server import Websocket, accept
from sc2_stand_in.wire import blob, number, real

LAUNCHED, INIT_GAME, IN_GAME = 1, 2, 3  # statuses
CREATE, JOIN, QUIT, GAME_INFO, OBSERVATION, ACTION, STEP, DATA, SAVE_REPLAY, PING, DEBUG = (
    1, 2, 8, 9, 10, 11, 12, 13, 15, 19, 20,
)  # fmt: skip
ID, ERROR, STATUS = 97, 98, 99
STOP_ID, MOVE_ID, ATTACK_ID, HEAL_ID = 4, 16, 23, 386  # abilities
CREATE_UNIT, KILL_UNIT = 3, 4  # debug commands
MISSING_MAP, UNKNOWN_MAP = 1, 3  # errors of create_game

# In which statuses a request may be made.
ANY = (LAUNCHED, INIT_GAME, IN_GAME)
ALLOWED = {CREATE: (LAUNCHED,), JOIN: (INIT_GAME,), PING: ANY} | dict.fromkeys(
    (GAME_INFO, OBSERVATION, ACTION, STEP, DATA, SAVE_REPLAY, DEBUG), (IN_GAME,)
)


class Refused(Exception):
    """A request that cannot be answered; its text goes into the response's error."""


class Game:
    """Answers requests, keeping the status that each response carries."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._status = LAUNCHED
        self._battle: Battle | None = None
        self._answers: dict[int, Callable[[dict], bytes]] = {
            CREATE: self._create, JOIN: self._join, PING: self._ping, GAME_INFO: self._game_info,
            OBSERVATION: self._observation, ACTION: self._action, STEP: self._step, DEBUG: self._debug,
            DATA: self._data, SAVE_REPLAY: self._save_replay,
        }  # fmt: skip

    def answer(self, data: bytes) -> bytes | None:
        """The response to a request; None to quit."""
        request = wire.decode(data)
        kind = next(field for field in request if field != ID)
        if kind == QUIT:
            return None
        try:
            if kind not in self._answers:
                raise Refused(f"the stand-in does not know request {kind}")
            if self._status not in ALLOWED[kind]:
                raise Refused(f"request {kind} is not allowed in status {self._status}")
            response = blob(kind, self._answers[kind](wire.decode(request[kind][0])))
        except Refused as error:
            response = blob(ERROR, str(error))
        ids = b"".join(number(ID, one) for one in request[ID])
        return response + ids + number(STATUS, self._status)

    @property
    def _playing(self) -> Battle:
        assert self._battle is not None
        return self._battle

    def _ping(self, request: dict) -> bytes:
        return blob(1, GAME_VERSION) + blob(2, GAME_VERSION) + number(3, BUILD) + number(4, BUILD)

    def _create(self, request: dict) -> bytes:
        local_map = wire.decode(request[1][0])
        if not local_map[7] or not local_map[7][0]:
            return number(1, MISSING_MAP) + blob(2, "no map data")
        name = Path(local_map[1][0].decode()).stem
        if name not in MAPS:
            return number(1, UNKNOWN_MAP) + blob(2, f"the stand-in has no map {name}")
        players = [wire.decode(player) for player in request[3]]
        difficulty = next(player[3][0] for player in players if player[3])
        seed = request[5][0] if request[5] else None
        self._battle = Battle(name, difficulty, seed)
        self._status = INIT_GAME
        return b""

    def _join(self, request: dict) -> bytes:
        self._status = IN_GAME
        return number(1, ALLY)

    def _game_info(self, request: dict) -> bytes:
        size = number(1, SIZE) + number(2, SIZE)
        walkable = bytes(SIZE // 8)
        rows = [
            walkable if row in (*range(BORDER - 1), *range(SIZE - BORDER + 1, SIZE)) else _row()
            for row in range(SIZE)
        ]
        pathing = number(1, 1) + blob(2, size) + blob(3, b"".join(rows))
        terrain = number(1, 8) + blob(2, size) + blob(3, bytes([127]) * SIZE * SIZE)
        area = blob(1, number(1, 0) + number(2, 0)) + blob(2, number(1, SIZE) + number(2, SIZE))
        raw = blob(1, size) + blob(2, pathing) + blob(3, terrain) + blob(5, area)
        return blob(1, GAME_VERSION) + blob(4, raw)

    def _observation(self, request: dict) -> bytes:
        units = b"".join(blob(2, _encode(unit)) for unit in self._playing.units.values())
        return blob(3, number(9, self._playing.game_loop) + blob(5, units))

    def _action(self, request: dict) -> bytes:
        results = b""
        for action in request[1]:
            command = wire.decode(wire.decode(wire.decode(action)[1][0])[1][0])
            for tag in wire.numbers(command[4]):
                self._order(command, tag)
            results += number(1, 1)
        return results

    def _order(self, command: dict, tag: int) -> None:
        ability = command[1][0]
        if ability == MOVE_ID:
            point = wire.decode(command[2][0])
            self._playing.move(tag, point[1][0], point[2][0])
        elif ability == ATTACK_ID:
            self._playing.attack(tag, command[3][0])
        elif ability == STOP_ID:
            self._playing.stop(tag)
        elif ability != HEAL_ID:  # none of the stand-in's units heals
            raise Refused(f"the stand-in does not know ability {ability}")

    def _step(self, request: dict) -> bytes:
        self._faults.count_step()
        self._playing.step(request[1][0] if request[1] else 1)
        return number(1, self._playing.game_loop)

    def _debug(self, request: dict) -> bytes:
        for command in map(wire.decode, request[1]):
            if command[KILL_UNIT]:
                self._playing.kill(wire.numbers(wire.decode(command[KILL_UNIT][0])[1]))
            elif command[CREATE_UNIT]:
                unit = wire.decode(command[CREATE_UNIT][0])
                point = wire.decode(unit[3][0])
                self._playing.create(unit[2][0], unit[1][0], point[1][0], point[2][0])
            else:
                raise Refused("the stand-in knows no debug command but kill_unit and create_unit")
        return b""

    def _data(self, request: dict) -> bytes:
        return b"".join(blob(2, number(1, unit)) for unit in range(FIRST_ALLY_ID + len(OWN_UNITS)))

    def _save_replay(self, request: dict) -> bytes:
        return blob(1, f"stand-in, game loop {self._playing.game_loop}")


def _row() -> bytes:
    bits = [int(BORDER - 1 <= y <= SIZE - BORDER) for y in range(SIZE)]
    return int("".join(map(str, bits)), 2).to_bytes(SIZE // 8, "big")


def _encode(unit: Unit) -> bytes:
    kind = unit.kind
    alliance = 1 if unit.owner == ALLY else 4
    position = real(1, unit.x) + real(2, unit.y) + real(3, 10.0)
    return b"".join(
        [
            number(1, 1), number(2, alliance), number(3, unit.tag), number(4, unit.type_id),
            number(5, unit.owner), blob(6, position), real(7, 0.0), real(8, kind.radius), real(9, 1.0),
            real(14, unit.health), real(15, kind.health), real(16, unit.shield), real(36, kind.shield),
            real(30, unit.cooldown),
        ]
    )  # fmt: skip


def serve(client: Websocket, game: Game, faults: Faults) -> None:
    """Answer the client until it quits or is gone."""
    while (data := client.receive()) is not None:
        response = game.answer(data)
        if response is None:
            return
        client.send(faults.spoil(response))


def main() -> None:
    """Serve one client, as the game does."""
    parser = argparse.ArgumentParser()
    for option in ("listen", "port", "dataDir", "tempDir"):
        parser.add_argument(f"-{option}", required=True)
    given, _ = parser.parse_known_args()
    faults = Faults(os.environ.get(FAULT_VARIABLE, ""), Path(given.dataDir))
    if faults.refuses:
        sys.exit("the stand-in refuses to start")
    Path(given.tempDir, "stand-in.txt").write_text(f"{os.getpid()}\n")
    while faults.mute:
        time.sleep(60)
    serve(accept(given.listen, int(given.port)), Game(faults), faults)


if __name__ == "__main__":
    main()
