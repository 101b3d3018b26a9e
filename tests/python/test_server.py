"""The package against the real rxtd: the code of its README, the chat backend, CURVE, and as pip
installs it."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

import zmq

from test_examples import BACKEND, ENVIRONMENT, PACKAGE, ROOT, readme_blocks

(MODEL,) = (ROOT / "models").iterdir()


class Server:
    """An rxtd in a folder, at two endpoints."""

    def __init__(self, folder, *options):
        self.turn, self.state = f"ipc://{folder}/turn", f"ipc://{folder}/state"
        self.process = subprocess.Popen(
            [os.environ["RXTD"], "--model", MODEL, "--store", f"{folder}/store.db", "--turn", self.turn,
             "--state", self.state, *options], stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0


class ServerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def python(self, *words, path=PACKAGE):
        done = subprocess.run([sys.executable, "-W", "error", *words], capture_output=True, text=True,
                              timeout=300, env={**os.environ, "PYTHONPATH": str(path)})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_the_code_of_the_readme(self):
        blocks = readme_blocks()
        self.assertGreaterEqual(len(blocks), 4)
        with Server(self.folder) as server:
            code = "\n".join(blocks).replace("tcp://127.0.0.1:7110", server.turn)
            said = self.python("-c", code.replace("tcp://127.0.0.1:7111", server.state))
        self.assertRegex(said, r"version [12]\n")

    def test_as_pip_installs_it(self):
        source = shutil.copytree(PACKAGE, self.folder / "source")  # setuptools writes beside it
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
                               "--no-build-isolation", "--target", self.folder / "lib", source],
                              capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with Server(self.folder) as server:
            code = (f"import rxt_client; print(rxt_client.__file__)\n"
                    f"with rxt_client.Client({server.turn!r}) as c:\n"
                    f"    c.open('anna'); print(c.turn('anna', 'hi').remembered().version)\n")
            said = self.python("-c", code, path=self.folder / "lib").split()
        self.assertEqual(said, [f"{self.folder}/lib/rxt_client/__init__.py", "1"])

    def test_curve(self):
        (server_public, server_secret), (public, secret) = zmq.curve_keypair(), zmq.curve_keypair()
        (self.folder / "secret").write_bytes(server_secret)
        (self.folder / "secret").chmod(0o600)
        (self.folder / "clients").write_bytes(public + b" anna\n")
        with Server(self.folder, "--secret-key-file", f"{self.folder}/secret", "--clients",
                    f"{self.folder}/clients") as server:
            keys = [k.decode() for k in (server_public, public, secret)]
            code = (f"import rxt_client\n"
                    f"curve = rxt_client.Curve(*{keys!r})\n"
                    f"with rxt_client.Client({server.turn!r}, curve=curve) as c:\n"
                    f"    c.open('s'); print(c.turn('s', 'hi').remembered().version)\n")
            self.assertEqual(self.python("-c", code), "1\n")

    def talk(self, port, name, *queries):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as user, user.makefile("rw") as f:
            f.write("".join(f"{line}\n" for line in (name, *queries)))
            f.flush()
            return [f.readline().rstrip("\n") for _ in queries]

    def test_the_chat_backend_keeps_no_transcript(self):
        """Anna comes back to another process of backend and server, and goes on at version 2."""
        answers = []
        for visit in range(2):
            with Server(self.folder) as server, subprocess.Popen(
                    [sys.executable, BACKEND, "--connect", server.turn, "--port", "0"], text=True,
                    stdout=subprocess.PIPE, env=ENVIRONMENT) as backend:
                try:
                    port = int(backend.stdout.readline().rsplit(":", 1)[1])
                    answers += self.talk(port, "anna", "my name is anna", f"visit {visit}")
                finally:
                    backend.kill()
        self.assertTrue(all(answers), answers)
        listed = subprocess.run([os.environ["RXT"], "session", "list", "--store",
                                 f"{self.folder}/store.db", "--json"], capture_output=True, check=True)
        self.assertRegex(listed.stdout.decode(), r'"session":"user.anna".*"version":4\b')


if __name__ == "__main__":
    unittest.main()
