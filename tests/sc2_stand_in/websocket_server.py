"""The server's side of a websocket (RFC 6455), for one client.

PySC2 sends binary messages in text frames; what they hold is not looked at.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, BINARY, CLOSE, PING, PONG = 0, 2, 8, 9, 10


class Websocket:
    """A connection on which the handshake is done."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = connection.makefile("rb")
        self._shake_hands()

    def _shake_hands(self) -> None:
        headers = {}
        request = self._stream.readline()
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if b"/sc2api" not in request:
            self._connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
            raise ConnectionError("the client asked for another page than /sc2api")
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        self._connection.sendall(b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept, b"", b""]))

    def receive(self) -> bytes | None:
        """The next message, of whatever type; None when the client is gone."""
        message = b""
        while True:
            head = self._stream.read(2)
            if len(head) < 2:
                return None
            final, code, size = head[0] & 0x80, head[0] & 0x0F, head[1] & 0x7F
            if size == 126:
                size = struct.unpack(">H", self._stream.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._stream.read(8))[0]
            mask = self._stream.read(4)
            data = _unmask(self._stream.read(size), mask)
            if code == CLOSE:
                return None
            if code == PING:
                self._send(PONG, data)
            elif code != PONG:
                message += data
                if final:
                    return message

    def send(self, message: bytes) -> None:
        """Send one binary message."""
        self._send(BINARY, message)

    def _send(self, code: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", 0x80 | code, size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x80 | code, 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | code, 127, size)
        self._connection.sendall(head + data)


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def accept(host: str, port: int) -> Websocket:
    """Listen and return the first client's connection."""
    with socket.create_server((host, port)) as server:
        connection, _ = server.accept()
    return Websocket(connection)
