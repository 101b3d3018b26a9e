"""Every memory that a busy server makes is the one that is computed alone.

rxt load plays many sessions at once against rxtd: a third of them lose their connection in the
middle of answers, a third read slowly, some turns are asked for twice. Afterwards each session is
computed by itself: from the token ids in its journal, and, since all turns are greedy, by rxt chat
from its questions. In a second run turns are cancelled, too; what was said of them is in the
journal alone."""

import argparse
import json
import os
import pathlib
import sqlite3
import struct
import subprocess
import tempfile

from run_rxt import MODEL, RXT, chat, show

RXTD = os.environ["RXTD"]


def serve(args, folder, store, *options):
    """Plays the load against a new server; gives what rxt load found."""
    server = subprocess.Popen(
        [RXTD, "--model", MODEL, "--store", store, "--turn", f"ipc://{folder}/turn", "--keep-text"],
        stderr=subprocess.DEVNULL,
    )
    try:
        done = subprocess.run(
            [RXT, "load", "--connect", f"ipc://{folder}/turn", "--sessions", str(args.sessions),
             "--turns", str(args.turns), "--seconds", str(args.seconds), "--rate", str(args.rate),
             "--words", "2-9", "--max-tokens", str(args.max_tokens), "--vanish", "0.34", "--slow",
             "0.33", "--resend", "0.05", "--keep", "--json", folder / "run.json", "--pid",
             str(server.pid), "--width", "0", *options],
            capture_output=True, text=True, timeout=args.seconds + 600,
        )
    finally:
        server.terminate()
        assert server.wait(timeout=600) == 0
    if args.seconds >= 60:
        print(done.stdout)
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    run = json.loads((folder / "run.json").read_text())
    facts = run["run"]
    assert facts["lost"] == 0 and facts["doubled"] is None and facts["unanswered"] is None, facts
    assert facts["sent"] == facts["done"] + (facts["cancelled"] or 0), facts
    assert facts["vanished"] > 0 and sum(facts[k] or 0 for k in ("refused", "connected")) == 0, facts
    return facts


def check_replay(store, n_session):
    """From the ids of the journal, one session after another."""
    done = subprocess.run([RXT, "inspect", store, "--verify", "--replay", "--json", "--model", MODEL],
                          capture_output=True, text=True)
    checks = json.loads(done.stdout)["checks"]
    bad = [c for c in checks if not c["good"]]
    assert done.returncode == 0 and not bad, bad
    assert len({c["session"] for c in checks if c["check"] == "replay"}) == n_session


def sessions_of(store):
    """name: its questions and the ids of its turns."""
    db = sqlite3.connect(store)
    rows = db.execute("SELECT s.name, t.query_text, t.ids FROM turn t JOIN session s ON s.id = t.session"
                      " WHERE t.state = 1 ORDER BY t.session, t.version").fetchall()
    db.close()
    out = {}
    for name, query, ids in rows:
        queries, turns = out.setdefault(name, ([], []))
        queries.append(query)
        turns.append(list(struct.unpack(f"<{len(ids) // 4}i", ids)))
    return out


def check_chat(store, folder, max_tokens):
    """From the questions."""
    n = 0
    for name, (queries, ids) in sessions_of(store).items():
        state = show(store, name)
        _, turns = chat(folder / "alone.db", queries, session=name, options=("--max-tokens", max_tokens))
        for k, turn in enumerate(turns):
            assert turn["query_ids"] + turn["answer_ids"] == ids[k], f"turn {k} of {name}: {turn}"
        assert len(turns) == len(queries) == turns[-1]["version"] == state["version"], (name, state)
        assert turns[-1]["stm_hash"] == state["stm_hash"], f"the memory of {name} differs: {turns[-1]}"
        n += len(turns)
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=9)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--max-tokens", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store = folder / "greedy.db"
        facts = serve(args, folder, store)
        check_replay(store, args.sessions)
        n = check_chat(store, folder, args.max_tokens)
        assert n == facts["done"], (n, facts)
        print(f"{n} turns of {args.sessions} sessions: the memories of each alone, by journal and by chat")
        store = folder / "cancelled.db"
        facts = serve(args, folder, store, "--cancel", "0.05")
        check_replay(store, args.sessions)
        print(f"{facts['done']} turns and {facts['cancelled']} cancelled: by journal")


if __name__ == "__main__":
    main()
