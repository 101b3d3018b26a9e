"""kill -9 of rxtd under load: clients send turns, several on their way, and after each kill the same
requests again.

Whatever is killed when: a turn that was reported DONE is in the journal with the ids that its client
has read, and is answered from there; no request is in the journal twice or out of order; and each
memory, on the way and at the end, is the one that `rxt remember` computes alone from those ids."""

import os
import pathlib
import sqlite3
import struct
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))

from kills import FULL, POINTS, SEED, check_versions, generator
from run_rxt import QUERIES, remember, show
from rxtp import Turn
from server import Server

KILLS = 200 if FULL else 8
CLIENTS, SESSIONS, TURNS = 3, 2, 8  # sessions of a client, turns of a session
AHEAD = 2  # turns of a session on their way


class Session:
    """Its turns, and what was heard of each, over all lives of the server."""

    def __init__(self, name, rng):
        self.name = name
        self.ids = [rng.randbytes(16) for _ in range(TURNS)]
        self.bodies = [self.body(rng) for _ in range(TURNS)]
        self.done = {}  # number of the turn: (ids of the answer, pending_version)
        self.hashes = {}  # version: hash
        self.ended = 0  # turns that are over

    def body(self, rng):
        body = {"session": self.name, "query": rng.choice(QUERIES), "max_tokens": rng.randint(2, 24)}
        if rng.random() < 0.5:
            body |= {"temperature": 0.8, "seed": rng.getrandbits(32)}
        if rng.random() < 0.3:
            body |= {"on_stale": "proceed"}
        return body

    def send(self, peer):
        """What is to be on its way and is not."""
        for k in range(self.ended, min(self.ended + AHEAD, TURNS)):
            if self.ids[k] not in peer.streams:
                peer.send("TURN", self.bodies[k], id=self.ids[k])

    def hear(self, peer, m):
        """One message of a turn of this session."""
        k = self.ids.index(m.id)
        assert m.name != "ERROR", (self.name, k, m.body)
        if m.name == "DONE":
            turn = Turn(peer.streams[m.id].came)
            version = m.body["pending_version"]
            assert m.stored or k not in self.done, f"{self.name}, turn {k} ran twice"
            assert self.done.setdefault(k, (turn.ids, version)) == (turn.ids, version)
        elif m.name == "MEMORY":
            self.hashes[m.body["version"]] = m.body["stm_hash"]
        if m.final:
            assert k in self.done, (self.name, k, m.name)
            self.ended = max(self.ended, k + 1)


def load(server, clients, most, end):
    """Everybody sends and reads until all is over, `most` messages came or the time is up. True if
    all is over; None if the server is gone."""
    peers, n = [], 0
    for sessions in clients:
        peers.append(server.peer())
        for s in sessions:
            peers[-1].send("OPEN", {"session": s.name})
    while any(s.ended < TURNS for sessions in clients for s in sessions):
        if server.process.poll() is not None:
            return None
        if n >= most or time.monotonic() >= end:
            return False
        for peer, sessions in zip(peers, clients):
            for s in sessions:
                s.send(peer)
            while m := peer.receive(0.002):
                n += 1
                for s in sessions:
                    if m.id in s.ids:
                        s.hear(peer, m)
    return True


def killed_once(server, clients, rng):
    """One life of the server; True if all turns were over before its end."""
    at_point = rng.random() < 0.5
    server.env = {"RXT_FAULT": f"{rng.choice(POINTS)}:{rng.randint(1, 20)}"} if at_point else {}
    server.start()
    over = None
    try:
        end = time.monotonic() + (30 if at_point else rng.uniform(0.02, 0.4))
        over = load(server, clients, 1 << 30 if at_point else rng.randint(5, 200), end)
    except AssertionError:
        if server.process.poll() is None:
            raise
    if server.process.poll() is None:
        server.process.kill()
    server.wait()
    return bool(over)


def journal(store, session):
    """(request id, version, ids) of the live rows, in order."""
    db = sqlite3.connect(store)
    rows = db.execute(
        "SELECT request, version, ids, n_query, state FROM turn WHERE session ="
        " (SELECT id FROM session WHERE name = ?) ORDER BY version", (session,)
    ).fetchall()
    db.close()
    assert all(state == 1 for *_, state in rows), "a row is not live"
    return [(r, v, list(struct.unpack(f"<{len(ids) // 4}i", ids)), n) for r, v, ids, n, _ in rows]


def check(folder, store, session):
    """The journal against what was heard, the memories against the ones computed alone."""
    rows = journal(store, session.name)
    assert [r for r, *_ in rows] == session.ids, "a turn is missing, doubled or out of order"
    assert [v for _, v, *_ in rows] == list(range(1, TURNS + 1))
    for k, (_, version, ids, n_query) in enumerate(rows):
        assert session.done[k] == (ids[n_query:], version), f"another answer of turn {k}"
    alone = remember(folder / "alone.db", [ids for _, _, ids, _ in rows], session.name)
    want = [turn["stm_hash"] for turn in alone]
    check_versions(alone, 0, want)
    for version, heard in session.hashes.items():
        assert heard.hex() == want[version - 1], f"memory {version} of {session.name} differs"
    state = show(store, session.name)
    assert (state["version"], state["stm_hash"]) == (TURNS, want[-1]), f"{session.name} differs"
    return len(session.hashes)


def conversation(rng, left):
    """One store, from its first turn to its last; how many kills that took (at most `left`), and how
    many memories were compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        server = Server(folder=folder)
        clients = [[Session(f"c{c}.s{s}", rng) for s in range(SESSIONS)] for c in range(CLIENTS)]
        kills, over = 0, False
        try:
            while not over and kills < left:
                over = killed_once(server, clients, rng)
                kills += 1
            if not over:
                server.env = {}
                server.start()
                assert load(server, clients, 1 << 30, float("inf")), "rxtd ended"
                server.stop()
        except AssertionError as e:
            e.add_note(f"log of rxtd:\n{server.read_log()[-2000:]}")
            raise
        finally:
            server.close()
        return kills, sum(check(folder, server.store, s) for c in clients for s in c)


def main():
    rng = generator()
    kills = compared = 0
    start = time.time()
    while kills < KILLS:
        more, memories = conversation(rng, KILLS - kills)
        kills += more
        compared += memories
    assert compared > 0
    print(f"kill_server: {kills} kills, {compared} memories compared, seed {SEED}, "
          f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
