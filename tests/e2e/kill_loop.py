"""kill -9 between token, end of answer, journal, update and image, and at random moments.

Whatever is killed when: no turn that was reported is missing, none is doubled when the driver goes
on where `rxt session show` says, and every memory on the way is bit-identical to the run that
nobody disturbed."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from kills import FULL, POINTS, SEED, check_versions, generator
from run_rxt import MODEL, QUERIES, RXT, chat, run, show


def undisturbed(folder):
    _, turns = chat(folder / "straight.db", QUERIES)
    assert len(turns) == len(QUERIES)
    return [turn["stm_hash"] for turn in turns]


def killed_at_point(store, done, point, nth):
    process, turns = chat(
        store, QUERIES[done:], env={"RXT_FAULT": f"{point}:{nth}"}, check=False
    )
    assert process.returncode in (0, -9), process.stderr
    return process.returncode == -9, turns


def killed_at_random(store, done, rng):
    """Kills the program after a random time; what it had reported until then counts."""
    script = "".join(q + "\n" for q in QUERIES[done:])
    process = subprocess.Popen(
        [RXT, "chat", "--model", MODEL, "--store", store, "--session", "s", "--seed", "7",
         "--temperature", "0", "--script", "-", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    process.stdin.write(script)
    process.stdin.close()
    time.sleep(rng.uniform(0.02, 0.35))
    process.kill()
    lines = process.stdout.read().splitlines()
    process.wait()
    return True, [json.loads(line) for line in lines]


def round_of(folder, number, want, kill):
    """One conversation, killed and taken up again until it is through."""
    store = folder / f"round{number}.db"
    kills = done = 0
    while done < len(QUERIES):
        before = done
        killed, turns = kill(store, done, kills)
        kills += killed
        check_versions(turns, done, want)
        if killed:
            state = show(store) if store.exists() and has_session(store) else {"version": 0}
            done = state["version"]
            if done:
                assert state["stm_hash"] == want[done - 1], "replay gives another memory"
        else:
            done += len(turns)
        assert done >= before + len(turns), "a reported turn is missing"
        assert done <= len(QUERIES)
    state = show(store)
    assert state["version"] == len(QUERIES) == state["turns"], "a turn was doubled"
    assert state["stm_hash"] == want[-1]
    store.unlink()
    return kills


def has_session(store):
    return run(["session", "list", "--store", store, "--json"]).stdout.strip() != ""


def main():
    rng = generator()
    rounds = kills = 0
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        want = undisturbed(folder)
        for point in POINTS:
            for _ in range(20 if FULL else 1):
                # A later kill in every attempt, so that each round gets through.
                first = rng.randint(1, 6)
                kills += round_of(
                    folder, rounds, want,
                    lambda store, done, n: killed_at_point(store, done, point, first + 3 * n),
                )
                rounds += 1
        for _ in range(100 if FULL else 3):
            kills += round_of(
                folder, rounds, want,
                lambda store, done, n: (
                    killed_at_random(store, done, rng) if n < 4
                    else killed_at_point(store, done, "none", 1)
                ),
            )
            rounds += 1
    assert kills >= rounds, "too few kills to prove anything"
    print(f"kill_loop: {rounds} rounds, {kills} kills, seed {SEED}, {time.time() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
