"""The wire format of protocol buffers, as far as the game's messages need it, without the library.

Field numbers are those of Blizzard's s2client-proto.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Encode a number from 0 on."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A whole number, a truth value or an enumeration's."""
    return varint(field << 3 | VARINT) + varint(int(value))


def real(field: int, value: float) -> bytes:
    """A float of 32 bits."""
    return varint(field << 3 | FIXED32) + struct.pack("<f", value)


def blob(field: int, value: bytes | str) -> bytes:
    """Bytes, a text or an encoded message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | BYTES) + varint(len(data)) + data


def decode(data: bytes) -> dict[int, list[Any]]:
    """The values of each field of a message in order: ints, floats (32 bits), and bytes for all else."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, kind = key >> 3, key & 7
        value: Any
        if kind == VARINT:
            value, at = _read_varint(data, at)
        elif kind == BYTES:
            size, at = _read_varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind == FIXED32:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        elif kind == FIXED64:
            value, at = data[at : at + 8], at + 8
        else:
            raise ValueError(f"wire type {kind} is none that the game uses")
        fields[field].append(value)
    return fields


def numbers(values: list[Any]) -> list[int]:
    """A repeated field of whole numbers, packed or not."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _read_varint(value, at)
            found.append(one)
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
