"""rxt inspect --connect: a server shows of its sessions what their store does, and does not notice."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

from inspect_sessions import SECRETS, check_page
from run_rxt import MODEL, QUERIES, RXT, run


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, store, *options):
        self.turn, self.state = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.store = store
        self.command = [os.environ["RXTD"], "--model", MODEL, "--store", self.store, "--threads", 1,
                        "--turn", self.turn, "--state", self.state, *options]

    @contextlib.contextmanager
    def running(self):
        process = subprocess.Popen(list(map(str, self.command)), stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0

    def chat(self, queries, session, *keys):
        done = subprocess.run(
            [RXT, "chat", "--connect", self.turn, "--session", session, "--seed", "7",
             "--temperature", "0", "--script", "-", "--json", *map(str, keys)],
            input="".join(q + "\n" for q in queries), capture_output=True, text=True, timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def inspect(self, *arguments, check=True):
        return run(["inspect", "--connect", self.turn, *arguments], check=check)

    def list(self, *arguments):
        return json.loads(self.inspect("--json", *arguments).stdout)["sessions"]

    def look(self, session, *arguments):
        shown = self.inspect("--state", self.state, "--session", session, "--json", *arguments)
        return json.loads(shown.stdout)


def lists(server):
    anna, bob = server.list()
    assert (anna["session"], anna["version"], anna["turns"]) == ("anna", 6, 6), anna
    assert (bob["session"], bob["state"], bob["tier"]) == ("bob", "resident", "memory"), bob
    assert anna["resident_bytes"] > 0 and anna["age"] >= anna["idle"] >= 0, anna
    names = lambda *options: [s["session"] for s in server.list(*options)]
    assert names("--sort", "version") == ["bob", "anna"]
    assert names("--sort", "version", "--reverse") == ["anna", "bob"]
    assert names("--filter", "bo") == ["bob"] and names("--filter", "cold") == []


def the_same_as_its_store(server, said):
    """Every view of a session, beside the same view of the store file the server writes."""
    for view in [[], ["--text"], ["--version", 3], ["--version", 6, "--against", 2],
                 ["--against", "bob"], ["--against", "bob:1", "--version", 4],
                 ["--query", "What is my name?", "--layer", 1]]:
        live = server.look("anna", *view)
        stored = json.loads(
            run(["inspect", server.store, "--session", "anna", "--json", *view]).stdout)
        for shown in (live, stored):
            shown.pop("title", None)
            facts = shown.pop("session")
            assert facts["version"] == 6 and facts["seed"] == "7", facts
        assert live == stored, view
    shown = server.look("anna", "--version", 6)
    assert shown["version"]["stm_hash"] == said[-1]["stm_hash"]
    assert (shown["session"]["state"], shown["session"]["tier"]) == ("resident", "memory")
    checks = server.look("anna", "--verify", "--replay")["checks"]
    assert {c["check"] for c in checks} == {"journal", "image", "replay"}, checks
    assert all(c["good"] for c in checks), checks


def it_compares_itself(server):
    """What --against asks for, the server computes: also versions without an image, where this
    machine has no model to rebuild them."""
    at = ["--connect", server.turn, "--state", server.state, "--session", "anna", "--version", "6"]
    for against in ("2", "bob:1"):
        done = subprocess.run([RXT, "inspect", *at, "--against", against, "--json"], text=True,
                              env={**os.environ, "RXT_MODEL": "/nowhere"}, capture_output=True)
        assert done.returncode == 0, done.stderr
        shown, same = json.loads(done.stdout), server.look("anna", "--version", 6, "--against", against)
        assert [l["change"] for l in shown["layers"]] == [l["change"] for l in same["layers"]]
        assert shown["version"]["cosine"] == same["version"]["cosine"] != 1


def nothing_is_disturbed(server, said):
    """A cold session stays cold; one that answers meanwhile answers as it would have."""
    assert {s["state"] for s in server.list()} == {"cold"}
    assert server.look("anna", "--version", 6)["version"]["stm_hash"] == said[-1]["stm_hash"]
    assert {s["state"] for s in server.list()} == {"cold"}
    chatting = subprocess.Popen(
        [RXT, "chat", "--connect", server.turn, "--session", "carl", "--seed", "7",
         "--temperature", "0", "--script", "-", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    for turn, query in zip(said, QUERIES):
        print(query, file=chatting.stdin, flush=True)
        assert server.look("carl" if turn["version"] > 1 else "anna")["turns"]
        answered = json.loads(chatting.stdout.readline())
        assert [answered[key] for key in ("answer", "version", "stm_hash")] == [
            turn[key] for key in ("answer", "version", "stm_hash")]
    chatting.stdin.close()
    assert chatting.wait(60) == 0


def text_and_pages(server, folder):
    quiet = server.inspect("--state", server.state, "--session", "anna").stdout
    assert not any(secret in quiet for secret in SECRETS)
    page = folder / "live.html"
    server.inspect("--state", server.state, "--session", "anna", "--query", "hi", "--text", "--html", page)
    check_page(page.read_text())
    picture = folder / "live.png"
    server.inspect("--state", server.state, "--session", "anna", "--png", picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def refusals(server):
    at = ["--connect", server.turn]
    for arguments, word in [
        ([*at, "--session", "nobody", "--state", server.state], "no_session"),
        ([*at, "--session", "anna", "--state", server.state, "--against", "nobody"], "nobody"),
        ([*at, "--session", "anna", "--state", server.state, "--version", 9], "0 to 6"),
        ([*at, "--sort", "images"], "resident_bytes"),
        ([*at, "--version", 1], "--session"),
        ([*at, "--session", "anna", "--state", server.turn], "wrong_endpoint"),
    ]:
        done = run(["inspect", *arguments], check=False)
        assert done.returncode == 1 and word in done.stderr, (arguments, done.stderr)
    for arguments in [[*at, "--session", "anna"], [*at, "x.db"], [*at, "--tenant", "t"],
                      [*at, "--verify"], ["--state", server.state], [*at, "--store", "x.db"]]:
        assert run(["inspect", *arguments], check=False).returncode == 2, arguments


def tenants(folder):
    """With CURVE a client sees the sessions of its own tenant."""
    keygen = lambda name: run_keygen(folder / name)
    public, eins, zwei = keygen("server"), keygen("eins"), keygen("zwei")
    (folder / "clients").write_text(f"{eins} eins\n{zwei} zwei\n")
    server = Server(folder / "curve.db", "--secret-key-file", folder / "server",
                    "--clients", folder / "clients")
    keys = lambda name: ["--server-key", public, "--secret-key-file", folder / name]
    with server.running():
        server.chat(QUERIES[:1], "ours", *keys("eins"))
        assert [s["session"] for s in server.list(*keys("eins"))] == ["ours"]
        assert server.list(*keys("zwei")) == []
        assert len(server.look("ours", *keys("eins"))["turns"]) == 1
        done = server.inspect("--state", server.state, "--session", "ours", *keys("zwei"), check=False)
        assert done.returncode == 1 and "no_session" in done.stderr, done.stderr


def run_keygen(path):
    done = subprocess.run([RXT, "keygen", "--out", path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        scratch = folder / "scratch"
        scratch.mkdir()
        os.environ["TMPDIR"] = str(scratch)
        server = Server(folder / "server.db")
        with server.running():
            said = server.chat(QUERIES[:6], "anna")
            server.chat(QUERIES[6:9], "bob")
            lists(server)
            the_same_as_its_store(server, said)
            it_compares_itself(server)
            text_and_pages(server, folder)
            refusals(server)
        with server.running():
            nothing_is_disturbed(server, said)
        tenants(folder)
        assert not list(scratch.iterdir()), "nothing is left behind"
    print("inspect: a server shows what its store has")


if __name__ == "__main__":
    sys.exit(main())
