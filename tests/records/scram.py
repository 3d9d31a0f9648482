"""The server's half of SCRAM-SHA-256 (RFC 7677), as MongoDB's drivers speak it."""

import base64
import hashlib
import hmac
import os
from typing import Any

ITERATIONS = 4096
FAILED = {"ok": 0.0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed."}


class Scram:
    """Whether one connection has shown the ``credentials``; without any, everybody passes."""

    def __init__(self, credentials: tuple[str, str | None] | None) -> None:
        self.credentials = credentials
        self.passed = credentials is None
        self._salt = os.urandom(16)
        self._messages: list[str] = []

    def step(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer saslStart or saslContinue."""
        payload = bytes(body["payload"]).decode()
        if name == "saslStart":
            return self._start(body, payload)
        if self.passed:
            return _answer("", done=True)
        return self._prove(payload)

    def _start(self, body: dict[str, Any], payload: str) -> dict[str, Any]:
        bare = payload.split(",", 2)[2]
        fields = dict(part.split("=", 1) for part in bare.split(","))
        if body["mechanism"] != "SCRAM-SHA-256" or not self.credentials or fields["n"] != self.credentials[0]:
            return FAILED
        nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        first = f"r={nonce},s={base64.b64encode(self._salt).decode()},i={ITERATIONS}"
        self._messages = [bare, first]
        return _answer(first, done=False)

    def _prove(self, payload: str) -> dict[str, Any]:
        without_proof, _, proof = payload.rpartition(",p=")
        password = (self.credentials or ("", ""))[1] or ""
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), self._salt, ITERATIONS)
        text = ",".join([*self._messages, without_proof]).encode()
        stored = hashlib.sha256(_sign(salted, b"Client Key")).digest()
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), _sign(stored, text), strict=True))
        if hashlib.sha256(key).digest() != stored:
            return FAILED
        self.passed = True
        signature = _sign(_sign(salted, b"Server Key"), text)
        return _answer(f"v={base64.b64encode(signature).decode()}", done=True)


def _sign(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _answer(payload: str, done: bool) -> dict[str, Any]:
    return {"conversationId": 1, "done": done, "payload": payload.encode(), "ok": 1.0}
