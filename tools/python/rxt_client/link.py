"""A Core with a DEALER socket under it. Never blocks; client.py waits for it with poll, aio.py with
the event loop."""

from __future__ import annotations

import time
from typing import Optional

import zmq

from .core import Core, State
from .types import Curve

HEARTBEAT_MS = 5000


class Link:
    """One connection to one endpoint. For one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        curve: Optional[Curve],
        core: Core,
    ):
        self.core = core
        self.socket: zmq.Socket[bytes]
        self._context = context
        self._endpoint = endpoint
        self._curve = curve
        self._open()

    def _open(self) -> None:
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.heartbeat_ivl = HEARTBEAT_MS
        self.socket.heartbeat_timeout = 3 * HEARTBEAT_MS
        if self._curve:
            self.socket.curve_serverkey = self._curve.server_key.encode()
            self.socket.curve_publickey = self._curve.public_key.encode()
            self.socket.curve_secretkey = self._curve.secret_key.encode()
        self.socket.connect(self._endpoint)
        self.core.connected(time.monotonic())

    def pump(self) -> float:
        """Sends and receives what can be without waiting; returns the seconds until it must be
        called again although nothing came."""
        while True:
            self._flush()
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                pause = self.core.tick(time.monotonic())
                if self.core.replace:
                    self.socket.close()
                    self._open()
                elif not self.core.out or not self._flush():
                    return pause
            else:
                self.core.receive(frames, time.monotonic())

    def _flush(self) -> bool:
        """True if anything could be sent."""
        sent = False
        while self.core.out:
            try:
                self.socket.send_multipart(self.core.out[0], zmq.NOBLOCK)
            except zmq.Again:
                return sent
            self.core.out.popleft()
            sent = True
        return sent

    def close(self) -> None:
        self.core.state = State.CLOSED
        self.socket.close()
