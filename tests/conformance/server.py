"""Starts rxtd for a case: loopback ports that are free, a store in a folder of its own, the bundled
model unless the case has another."""

import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

import zmq

import document
import rxtp

RXTD = os.environ.get("RXTD", "")
(MODEL,) = (document.ROOT / "models").iterdir()
START_S = 60


given = set()  # ports; cases run at the same time, and a server takes its ports only when it starts


def free_port():
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in given:
            given.add(port)
            return port


class Server:
    """One rxtd. `options` are names of its configuration, '_' for '-'; `tenants` maps names to how
    many keys (then CURVE is on). `between(address)` gives the address that peers use instead: a
    proxy."""

    def __init__(self, *, model=MODEL, tenants=None, folder=None, env=None, between=None, **options):
        self.seen = rxtp.Seen()
        self.context = zmq.Context()
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = pathlib.Path(folder or self._temporary.name)
        self.store = self.folder / "store.db"
        self.env = env or {}
        self.between = between
        self.model = model
        self.addresses = {
            "turn": f"tcp://127.0.0.1:{free_port()}",
            "state": f"tcp://127.0.0.1:{free_port()}",
            "admin": f"ipc://{self.folder}/admin",
        }
        self.options = {"threads": 2, "config": self.folder / "config", **options}
        self.configure()
        self.keys = {}
        self.public_key = None
        if tenants:
            self._make_keys(tenants)
        self.log = ""
        self.process = None
        self._peers = []

    def _make_keys(self, tenants):
        self.public_key, secret = zmq.curve_keypair()
        (self.folder / "secret").write_bytes(secret)
        (self.folder / "secret").chmod(0o600)
        self.keys = {t: zmq.curve_keypair() for t in tenants}
        self.write_clients(tenants)
        self.options |= {
            "secret_key_file": self.folder / "secret", "clients": self.folder / "clients",
        }

    def write_clients(self, tenants):
        lines = [f"{self.keys[t][0].decode()} {t}\n" for t in tenants]
        (self.folder / "clients").write_text("".join(lines))

    def configure(self, **options):
        """Writes its file; what stands there is read again at RELOAD."""
        lines = [f"{k.replace('_', '-')} = {v}\n" for k, v in options.items()]
        (self.folder / "config").write_text("".join(lines))

    def command(self, *more):
        flags = {"model": self.model, "store": self.store, **self.addresses, **self.options}
        words = [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", str(v))]
        return [RXTD, *words, *more]

    def launch(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            self.command(), stdout=log, stderr=log, env={**os.environ, **self.env},
        )
        log.close()

    def start(self):
        """Starts it and waits until it answers."""
        self.launch()
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"rxtd does not start: {self.read_log()}")
        return self

    def _answers(self):
        port = int(self.addresses["turn"].rsplit(":", 1)[1])
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.01)
            return False

    def refuses_to_start(self, *more):
        """Runs it where it must not serve; (exit code, what it said)."""
        done = subprocess.run(self.command(*more), capture_output=True, text=True, timeout=START_S,
                              env={**os.environ, **self.env})
        return done.returncode, done.stdout + done.stderr

    def address(self, endpoint):
        address = self.addresses[endpoint]
        return self.between(address) if self.between else address

    def peer(self, endpoint="turn", hello=(), tenant=None):
        peer = rxtp.Peer(self, endpoint, hello, self.keys.get(tenant))
        self._peers.append(peer)
        return peer

    def read_log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(timeout=START_S)

    def stop(self):
        """As an operator does; it must end well."""
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"rxtd ended with {code}: {self.read_log()}"

    def kill(self):
        self.process.kill()
        self.wait()

    def close(self):
        for peer in self._peers:
            peer.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.context.destroy(linger=0)
        if self._temporary:
            self._temporary.cleanup()
