"""A server and the programs on the CUDA backend, on a card or emulated (tests/emulator/).

parity  rxt verify --parity: bf16 is not f32, and near it; f32 is f32.
server  Many sessions at the same time; afterwards every memory, and every token of every answer, is
        the one that the journal gives when each session is computed alone in a process of its own.
idle    Commands that compute nothing leave the device alone; others take it by themselves.
faults  The device fails, in each of the ways of RXT_DEVICE_FAULT, while turns are remembered and
        under a server with many sessions. Who runs it says so and ends; the next start has all that
        was acknowledged, holds no session, and goes on with the same bits."""

import argparse
import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile

RXT, RXTD = os.environ["RXT"], os.environ["RXTD"]
DEVICE_FAILED = 4  # the exit code of rxtd
POINTS = ("launch", "wait", "copy", "kernel")


class Setup:
    """What all commands are given."""

    def __init__(self, args, folder):
        self.folder = folder
        self.sessions, self.turns, self.seed = args.sessions, args.turns, args.seed
        if args.model is None:
            import small_model

            args.model = small_model.write(folder / "model")
        self.n_vocab = json.loads((pathlib.Path(args.model) / "config.json").read_text())[
            "decoder_config"]["vocab_size"]
        self.model = ["--model", str(args.model), "--backend", "cuda", "--dtype", args.dtype]

    def serve(self, store):
        return [RXTD, "--config", str(self.folder / "config"), "--store", str(store), "--turn",
                f"ipc://{self.folder}/turn", *self.model]

    def rxt(self, *words, text=None, fault="", check=True):
        model = self.model if words[:2] != ("session", "list") else self.model[:2]  # it computes nothing
        done = subprocess.run([RXT, *map(str, words), *model], input=text, capture_output=True,
                              text=True, timeout=600, env=os.environ | {"RXT_DEVICE_FAULT": fault})
        assert done.returncode == 0 or not check, f"rxt {words}: {done.stdout}{done.stderr}"
        return done

    def load(self, *options):
        """rxt load: all turns of a session are due one behind the other, of all at the same time."""
        done = subprocess.run(
            [RXT, "load", "--connect", f"ipc://{self.folder}/turn", "--sessions", str(self.sessions),
             "--turns", str(self.turns), "--think-ms", "1", "--words", "2-9", "--max-tokens", "4-12",
             "--temperature", "0.7", "--seed", str(self.seed), "--keep", "--json",
             str(self.folder / "run.json"), "--csv", str(self.folder / "run.csv"), "--width", "0",
             "--timeout-s", "300", *map(str, options)], capture_output=True, text=True, timeout=1200)
        assert done.returncode in (0, 1, 2), done.stdout + done.stderr  # how constant: not asked here
        return json.loads((self.folder / "run.json").read_text())

    def check_alone(self, store):
        """Every memory and answer again, from the journal, one session after another. Gives the
        newest image of each session."""
        done = self.rxt("inspect", store, "--verify", "--replay", "--json", check=False)
        checks = json.loads(done.stdout)["checks"]
        bad = [c for c in checks if not c["good"]]
        assert done.returncode == 0 and not bad, bad
        replayed = {c["session"] for c in checks if c["check"] == "replay"}
        wanted = [c["session"] for c in checks if c["check"] == "journal"]
        assert len(wanted) == self.sessions and set(wanted) == replayed, (wanted, replayed)
        images = dict.fromkeys(wanted, 0)
        for c in checks:
            if c["check"] == "image":
                images[c["session"]] = max(c["version"], images[c["session"]])
        return images


def most_at_once(path):
    """Answers that were being decoded at the same time."""
    with open(path, newline="") as f:
        turns = [(int(t["due_us"]) + int(t["first_token_us"]), int(t["due_us"]) + int(t["done_us"]))
                 for t in csv.DictReader(f) if t["outcome"] == "done"]
    edges = sorted([(start, 1) for start, _ in turns] + [(end, -1) for _, end in turns])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def check_server(s):
    store = s.folder / "store.db"
    server = subprocess.Popen(s.serve(store), stderr=subprocess.PIPE, text=True)
    try:
        run = s.load()
    finally:
        server.terminate()
        log = server.communicate(timeout=600)[1]
    assert server.returncode == 0, log
    assert run["run"]["done"] == s.sessions * s.turns, run["run"]
    most = most_at_once(s.folder / "run.csv")
    assert most >= min(s.sessions, 4), f"never more than {most} answers at the same time"
    images = s.check_alone(store)
    assert set(images.values()) == {s.turns}, f"a final memory is no image: {images}"
    print(f"server: {s.sessions} sessions of {s.turns} turns, up to {most} answers at the same time: "
          f"the memories and answers of each alone")


# ---- parity ----------------------------------------------------------------------------------------


def check_parity(s):
    """The bundled model; the emulated device takes seconds a turn."""
    root = pathlib.Path(__file__).resolve().parents[2]
    conversation = json.loads((root / "tests/golden/demo-15m/conversation.json").read_text())
    (s.folder / "conversation.json").write_text(json.dumps(conversation[:1]))
    far = {}
    for dtype in ("f32", "bf16"):
        done = subprocess.run(
            [RXT, "verify", s.folder, "--parity", "--json", "--model", root / "models/demo-15m",
             "--backend", "cuda", "--dtype", dtype], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        (turn,) = map(json.loads, done.stdout.splitlines())
        assert turn["good"] and turn["wrong"] == 0, turn
        assert turn["tokens"] == len(conversation[0]["answer_ids"]), turn
        far[dtype] = turn["memory"]
    assert 0 < far["f32"] < 1e-5 and 1e-4 < far["bf16"] < 2e-2, far
    print(f"parity: the memory is {far['f32']:.1e} from the CPU's in f32, {far['bf16']:.1e} in bf16")


def check_idle(s):
    """The device that is there is found, unless the command has no use for one."""
    store, file = s.folder / "idle.db", s.folder / "idle.export"

    def opens_device(*words, text=None):
        done = subprocess.run([RXT, *map(str, words), "--store", str(store), *s.model[:2]],
                              input=text, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"rxt {words}: {done.stdout}{done.stderr}"
        return "computes on cuda" in done.stderr

    assert opens_device("remember", "-", "--session", "a", text=json.dumps({"ids": [1, 2]}) + "\n")
    for words in (("list",), ("fork", "a", "--to", "b"), ("export", "a", "--file", file),
                  ("erase", "b"), ("import", "c", "--file", file)):
        assert not opens_device("session", *words), words
    for words in (("show", "c"), ("rewind", "c", "--version", 0), ("reset", "a")):
        assert opens_device("session", *words), words
    print("idle: no device for list, fork, export, erase, import")


# ---- faults ----------------------------------------------------------------------------------------


def remembered(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_remember(s, dice):
    """Programs in process: the turn that fails says why; the rest is remembered by the next one."""
    turns = [[dice.randrange(s.n_vocab) for _ in range(dice.randint(4, 16))] for _ in range(6)]
    lines = [json.dumps({"ids": ids}) + "\n" for ids in turns]
    want = remembered(s.rxt("remember", "-", "--store", s.folder / "alone.db", "--json",
                            text="".join(lines)))
    for point in POINTS:
        store, n, version, failures = s.folder / f"{point}.db", 1, 0, 0
        while version < len(turns):
            done = s.rxt("remember", "-", "--store", store, "--json", text="".join(lines[version:]),
                         fault=f"{point}:{n}", check=False)
            n *= 3
            if done.returncode:
                said = done.stdout + done.stderr
                assert "device" in said, f"{point}: {said}"
                failures += 1
            turn = [t for t in remembered(done) if "version" in t]
            assert turn == want[version:version + len(turn)], (point, n, turn)
            listed = remembered(s.rxt("session", "list", "--store", store, "--json"))
            if listed:  # else it failed before there was one
                assert "held_reason" not in listed[0], listed
                assert listed[0]["version"] >= version + len(turn), (listed, turn)
                version = listed[0]["version"]
        assert failures >= 2, f"{point}: only {failures} faults"
        state = json.loads(s.rxt("session", "show", "default", "--store", store, "--json").stdout)
        assert state["stm_hash"] == want[-1]["stm_hash"], (point, state)
        print(f"remember: {failures} faults at {point}, the same memories")


def supervise(command, log, faults):
    """Runs a server as an init system does: again when the device has failed."""
    server = None
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    for fault in [*faults, ""]:
        with open(log, "a") as out:
            server = subprocess.Popen(command, stderr=out,
                                      env=os.environ | {"RXT_DEVICE_FAULT": fault})
        code = server.wait()
        if code != DEVICE_FAILED:
            sys.exit(code)


def check_faults(s):
    dice = random.Random(s.seed)
    check_remember(s, dice)
    store, log, plan = s.folder / "faults.db", s.folder / "log", s.folder / "plan"
    faults = [f"{point}:{dice.randint(20, 60) // (4 if point == 'copy' else 1)}" for point in POINTS]
    plan.write_text("# nothing: the faults are the device's\n")
    (s.folder / "supervisor.json").write_text(json.dumps([s.serve(store), str(log), faults]))
    run = s.load("--faults", plan, "--server",
                       f"{sys.executable} {__file__} supervise {s.folder}/supervisor.json")
    said = log.read_text()
    assert run["verdict"].startswith("NOTHING LOST"), run["verdict"] + said[-3000:]
    failed = said.count("rxtd: the device failed: ")
    assert failed == len(faults), f"{failed} of {faults}:\n{said[-3000:]}"
    assert "session_held" not in said
    s.check_alone(store)
    print(f"faults under {s.sessions} sessions at {', '.join(faults)}: {run['verdict']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("faults", "idle", "parity", "server"))
    parser.add_argument("--model", help="default: a small one that is made")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config").write_text("")
        setup = Setup(args, folder)
        {"faults": check_faults, "idle": check_idle, "parity": check_parity,
         "server": check_server}[args.part](setup)


if __name__ == "__main__":
    if sys.argv[1:2] == ["supervise"]:
        supervise(*json.loads(pathlib.Path(sys.argv[2]).read_text()))
    else:
        main()
