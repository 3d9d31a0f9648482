"""A small MongoDB server over mongomock, with faults on request, for tests that need a real socket.

    python tests/records/mongo_server.py --data FILE [--port PORT] [--user NAME --password WORD]

It prints its port and then obeys lines on its standard input:

    normal           answer everything again
    refuse           close every connection and take no new ones
    hang             take connections and requests, answer nothing
    delay SECONDS    answer that much later
    drop_before N    close the connection instead of applying the next N writes
    drop_after N     apply the next N writes and close the connection instead of answering

Writes go to FILE before they are applied; a server started with the same FILE has the same data. It is as
durable as a server that syncs its log with every write, and can be killed at any moment.
"""

import argparse
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import bson
import mongomock
from mongomock.collection import Collection
from pymongo.errors import PyMongoError, WriteError
from scram import Scram

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HELLO = {
    "ismaster": True, "helloOk": True, "isWritablePrimary": True, "minWireVersion": 0, "maxWireVersion": 17,
    "maxBsonObjectSize": 16 * 2**20, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    "readOnly": False, "saslSupportedMechs": ["SCRAM-SHA-256"], "ok": 1.0,
}  # fmt: skip
WRITES = {"insert", "update", "delete", "createIndexes", "drop", "dropDatabase"}
OPEN_COMMANDS = {"hello", "ismaster", "isMaster", "ping", "saslStart", "saslContinue", "buildInfo"}


class Refused(Exception):
    """A command the server answers with an error."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.document = {"ok": 0.0, "code": code, "codeName": name, "errmsg": message}


class Data:
    """The databases, their log, and the commands that work on them."""

    def __init__(self, path: Path) -> None:
        self.client = mongomock.MongoClient()
        self.lock = threading.Lock()
        self.log = path.open("ab+")
        self.log.seek(0)
        for body in bson.decode_file_iter(self.log):
            self._apply(body)

    def run(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            if next(iter(body)) in WRITES:
                self.log.write(bson.encode(body))
                self.log.flush()
            return self._apply(body)

    def _apply(self, body: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(body))
        command = getattr(self, f"do_{name}", None)
        if command is None:
            raise Refused(59, "CommandNotFound", f"no such command: '{name}'")
        database = self.client[body["$db"]]
        target = database[body[name]] if isinstance(body[name], str) else database
        return {**command(target, body), "ok": 1.0}

    def do_insert(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        return _each(body["documents"], lambda document: (collection.insert_one(document), {"n": 1})[1])

    def do_update(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        def update(one: dict[str, Any]) -> dict[str, Any]:
            if next(iter(one["u"]), "").startswith("$"):
                method = collection.update_many if one.get("multi") else collection.update_one
            else:
                method = collection.replace_one
            result = method(one["q"], one["u"], upsert=one.get("upsert", False))
            upserted = result.upserted_id
            counts = {"n": result.matched_count or (upserted is not None), "nModified": result.modified_count}
            return counts | ({"upserted": upserted} if upserted is not None else {})

        return _each(body["updates"], update)

    def do_delete(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        def delete(one: dict[str, Any]) -> dict[str, Any]:
            method = collection.delete_one if one["limit"] else collection.delete_many
            return {"n": method(one["q"]).deleted_count}

        return _each(body["deletes"], delete)

    def do_find(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        cursor = collection.find(body.get("filter"), body.get("projection"))
        if "sort" in body:
            cursor = cursor.sort(list(body["sort"].items()))
        cursor = cursor.skip(body.get("skip", 0)).limit(body.get("limit", 0))
        return _cursor(collection, list(cursor))

    def do_aggregate(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        return _cursor(collection, list(collection.aggregate(body["pipeline"])))

    def do_count(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        return {"n": collection.count_documents(body.get("query") or {})}

    def do_distinct(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        return {"values": collection.distinct(body["key"], body.get("query"))}

    def do_createIndexes(self, collection: Collection, body: dict[str, Any]) -> dict[str, Any]:
        for index in body["indexes"]:
            collection.create_index(list(index["key"].items()), unique=index.get("unique", False))
        return {}

    def do_listCollections(self, database: Any, body: dict[str, Any]) -> dict[str, Any]:
        names = [{"name": name, "type": "collection"} for name in database.list_collection_names()]
        return {"cursor": {"id": 0, "ns": f"{database.name}.$cmd", "firstBatch": names}}

    def do_dropDatabase(self, database: Any, body: dict[str, Any]) -> dict[str, Any]:
        self.client.drop_database(database.name)
        return {}

    def do_ping(self, database: Any, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    do_endSessions = do_ping

    def do_buildInfo(self, database: Any, body: dict[str, Any]) -> dict[str, Any]:
        return {"version": "5.0.0", "versionArray": [5, 0, 0, 0]}


def _each(documents: list[dict[str, Any]], apply: Any) -> dict[str, Any]:
    """Apply a write per document, in order, up to the first that fails."""
    answer: dict[str, Any] = {"n": 0}
    for index, document in enumerate(documents):
        try:
            counts = apply(document)
        except WriteError as error:
            answer["writeErrors"] = [{"index": index, "code": error.code or 2, "errmsg": str(error)}]
            break
        if "upserted" in counts:
            answer.setdefault("upserted", []).append({"index": index, "_id": counts.pop("upserted")})
        for key, count in counts.items():
            answer[key] = answer.get(key, 0) + int(count)
    return answer


def _cursor(collection: Collection, documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cursor": {"id": 0, "ns": collection.full_name, "firstBatch": documents}}


class Server:
    """Listens, answers, and misbehaves on request."""

    def __init__(self, data: Data, port: int, user: str | None, password: str | None) -> None:
        self.data = data
        self.credentials = (user, password) if user else None
        self.connections: set[socket.socket] = set()
        self.answering = threading.Event()
        self.answering.set()
        self.delay, self.drop_before, self.drop_after = 0.0, 0, 0
        self.port = port
        self.listen()

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def obey(self, line: str) -> None:
        word, _, number = line.strip().partition(" ")
        if word == "normal":
            self.delay, self.drop_before, self.drop_after = 0.0, 0, 0
            self.answering.set()
            if self.listener.fileno() < 0:
                self.listen()
        elif word == "refuse":
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            for connection in list(self.connections):
                connection.shutdown(socket.SHUT_RDWR)
        elif word == "hang":
            self.answering.clear()
        elif word in ("delay", "drop_before", "drop_after"):
            setattr(self, word, float(number) if word == "delay" else int(number))
        else:
            raise ValueError(f"unknown fault {line!r}")

    def serve(self, connection: socket.socket) -> None:
        session = Scram(self.credentials)
        try:
            while True:
                header = _receive(connection, 16)
                length, request, _, kind = struct.unpack("<iiii", header)
                body = _body(kind, _receive(connection, length - 16))
                answer = self.answer(body, session)
                self.answering.wait()
                connection.sendall(_message(kind, request, answer))
        except OSError:
            pass  # the client went away, or a fault closed the connection
        finally:
            self.connections.discard(connection)
            connection.close()

    def answer(self, body: dict[str, Any], session: Scram) -> dict[str, Any]:
        self.answering.wait()
        time.sleep(self.delay)
        name = next(iter(body))
        if name in ("hello", "ismaster", "isMaster"):
            return HELLO
        if name in ("saslStart", "saslContinue"):
            return session.step(name, body)
        if not session.passed and name not in OPEN_COMMANDS:
            return Refused(13, "Unauthorized", f"command {name} requires authentication").document
        if name in WRITES and self.drop_before > 0:
            self.drop_before -= 1
            raise ConnectionAbortedError
        try:
            answer = self.data.run(body)
        except Refused as refusal:
            return refusal.document
        except (PyMongoError, NotImplementedError, ValueError) as error:
            return Refused(2, "BadValue", str(error)).document
        if name in WRITES and self.drop_after > 0:
            self.drop_after -= 1
            raise ConnectionAbortedError
        return answer


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionAbortedError
        data += part
    return data


def _body(kind: int, message: bytes) -> dict[str, Any]:
    """Return the command of an OP_MSG, its document sequences as lists, or of an OP_QUERY."""
    if kind == OP_QUERY:
        start = message.index(b"\0", 4) + 1 + 8
        return bson.decode(message[start : start + struct.unpack_from("<i", message, start)[0]])
    (flags,) = struct.unpack_from("<I", message)
    end = len(message) - 4 * (flags & 1)  # a checksum may follow
    body: dict[str, Any] = {}
    sequences: dict[str, Any] = {}
    at = 4
    while at < end:
        section, size = message[at], struct.unpack_from("<i", message, at + 1)[0]
        if section == 0:
            body = bson.decode(message[at + 1 : at + 1 + size])
        else:
            name, _, documents = message[at + 5 : at + 1 + size].partition(b"\0")
            sequences[name.decode()] = bson.decode_all(documents)
        at += 1 + size
    return body | sequences


def _message(kind: int, request: int, answer: dict[str, Any]) -> bytes:
    content = bson.encode(answer)
    if kind == OP_QUERY:
        kind, content = OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + content
    else:
        content = struct.pack("<IB", 0, 0) + content
    return struct.pack("<iiii", 16 + len(content), 0, request, kind) + content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user")
    parser.add_argument("--password")
    given = parser.parse_args()
    server = Server(Data(given.data), given.port, given.user, given.password)
    print(server.port, flush=True)
    for line in sys.stdin:
        server.obey(line)
        print("ok", flush=True)
    os._exit(0)  # whoever started the server is gone


if __name__ == "__main__":
    main()
