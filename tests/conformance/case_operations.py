"""The admin endpoint, signals, the configuration."""

import json
import signal
import time
import urllib.error
import urllib.request

import document
from rxtp import LONG, NO_ID, Turn, check
from server import MODEL, free_port
from suite import case

STOP = "SIGTERM"


def until(is_true, what, seconds=30):
    end = time.monotonic() + seconds
    while not is_true():
        check(time.monotonic() < end, "not within", seconds, "s:", what)
        time.sleep(0.01)


def get(address, path):
    """(status, text) of the metrics port."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


@case()
def health_and_stats(s):
    admin, peer = s.peer("admin"), s.peer()
    health = admin.call("HEALTH", {})
    check(health["live"] and health["ready"] and health["state"] == "serving", health)
    peer.open("s")
    peer.turn("s", "the canary sings").remembered()
    metrics = admin.call("STATS", {})["metrics"]
    check("# TYPE" in metrics and "canary" not in metrics, metrics)
    check("canary" not in s.read_log(), "text of a user is in the log")


METRICS = f"127.0.0.1:{free_port()}"


@case(metrics=METRICS)
def the_metrics_port(s):
    """Probes say yes while it serves, and not ready while it drains; the metrics are those of now."""
    peer = s.peer()
    peer.open("s")
    peer.turn("s", "hi").remembered()

    def value(name):
        lines = get(METRICS, "/metrics")[1].splitlines()
        (line,) = [l for l in lines if l.startswith(name + " ")]
        return float(line.split()[1])

    check(value("rxt_commits_total") >= 1, "a turn was remembered")
    until(lambda: value("rxt_step_age_seconds") > 0, "the age of the engine's last step")
    for path in ("/live", "/ready", "/progress"):
        check(get(METRICS, path) == (200, "yes\n"), path, get(METRICS, path))
    check(get(METRICS, "/other")[0] == 404, "no such page")
    running = peer.keep_busy("s", 3)
    s.signal(signal.SIGTERM)
    until(lambda: s.process.poll() is not None or get(METRICS, "/ready") == (503, "no\n"), "not ready")
    check(running and s.wait() == 0, "exit code", s.process.returncode)


@case()
def welcome_says_what_a_client_must_know(s):
    config = json.loads((MODEL / "config.json").read_text())
    vocabulary = config["decoder_config"]["vocab_size"]
    for endpoint in ("turn", "state", "admin"):
        w = s.peer(endpoint).welcome
        check(w["endpoint"] == endpoint and w["tenant"] == "default", w)
        check(w["model"] and w["n_vocab"] == vocabulary and w["answer_min"] >= 16, w)
        check(w["max_seq_len"] > w["answer_min"], w)
        check(w["window"] == 256 and w["max_body_bytes"] == 262144, w)
        check(w["chunk_bytes"] == 1048576 and w["max_candidates"] >= 2, w)
        check(0 < w["stm_bytes"] <= w["session_bytes"], w)


@case(rows=[STOP])
def sigterm_drains(s):
    """What runs ends, nothing new begins, the process ends with 0 and everything is on the disk."""
    peer = s.peer()
    peer.open("s")
    running = peer.keep_busy("s", 3)
    s.signal(signal.SIGTERM)
    told = None
    while told is None:
        m = peer.receive()
        check(m, "no DRAINING")
        told = m if m.name == "DRAINING" else None
        if not told:
            peer.aside.append(m)
    check(told.body["deadline_ms"] > 0, told.body)
    refused = peer.send("TURN", {"session": "s", "query": "hi"})
    check(peer.error(refused, 303).body["retryable"], "draining")
    turns = [Turn(peer.finish(id)).remembered() for id in running]
    check(s.wait() == 0, "exit code", s.process.returncode)
    s.start()
    heir = s.peer()
    info = heir.call("GET", {"session": "s"})["info"]
    check(info["version"] == 3 and info["stm_hash"] == turns[-1].memory["stm_hash"], info)
    heir.turn("s", "hi", id=refused).remembered()


@case(rows=[STOP])
def sigterm_while_it_starts(s):
    """It ends with 0 at any moment after it has opened its store."""
    log = s.folder / "store.db-wal"
    for _ in range(5):
        s.signal(signal.SIGTERM)
        check(s.wait() == 0, "exit code", s.process.returncode)
        check(not log.exists(), "the store was not closed")
        s.launch()
        while not log.exists() and s.process.poll() is None:
            pass


@case(rows=[STOP], drain_ms=60000)
def a_second_signal_forces(s):
    peer = s.peer(hello={"credit": 1}.items())
    peer.open("s")
    ids = [peer.send("TURN", {"session": "s", "query": "x", **LONG}) for _ in range(50)]
    peer.expect("ACCEPTED", ids[0])
    s.signal(signal.SIGTERM)
    while peer.receive().name != "DRAINING":
        pass
    s.signal(signal.SIGTERM)
    check(s.wait() == 0, "exit code", s.process.returncode)
    s.start()
    info = s.peer().call("GET", {"session": "s"})["info"]
    check(info["version"] < 50, "everything was waited for")


@case()
def drain_by_message(s):
    admin, peer = s.peer("admin"), s.peer()
    peer.open("s")
    busy = peer.keep_busy("s", 3)
    admin.send("DRAIN", {"deadline_ms": 20000})
    while (m := peer.receive()).name != "DRAINING":
        peer.aside.append(m)
    state = admin.call("HEALTH", {})
    check(state["state"] == "draining" and not state["ready"], state)
    peer.let_go("s", busy)
    check(s.wait() == 0, "exit code")


@case()
def drain_has_a_deadline(s):
    admin, peer = s.peer("admin"), s.peer()
    peer.open("s")
    peer.keep_busy("s", 3)
    admin.send("DRAIN", {"deadline_ms": 20000})
    while (m := peer.receive()).name != "DRAINING":
        pass
    check(m.body["deadline_ms"] <= 20000, m.body)


@case(rows=[STOP])
def a_drain_ends_before_the_memory_has_caught_up(s):
    """More to remember than its deadline leaves time for: the disk does not hang, and what was
    acknowledged is on it."""
    admin, peer = s.peer("admin"), s.peer()
    names = [f"s{k:03d}" for k in range(250)]
    for name in names:
        peer.open(name)
    body = {"ids": [5] * peer.welcome["max_seq_len"]}
    ids = [peer.send("REMEMBER", {"session": name, **body}) for name in names]
    for id in ids:
        peer.expect("DONE", id)
    admin.send("DRAIN", {"deadline_ms": 1})
    check(s.wait() == 0, "exit code", s.process.returncode, s.read_log())
    s.start()
    sessions = s.peer().call("LIST", {"limit": 256})["sessions"]
    check([x["version"] for x in sessions] == [1] * len(names), sessions)


@case(own=True)
def configurations_that_are_refused(make):
    for options, word in (
        ({"turn": "tcp://0.0.0.0:7777"}, "turn"), ({"turn": "udp://x"}, "turn"),
        ({"admin": "tcp://127.0.0.1:7777"}, "admin"), ({"max_live": -1}, "max-live"),
        ({"sync": "maybe"}, "sync"), ({"colour": "red"}, "colour"),
        ({"secret_key_file": "nowhere"}, "nowhere"), ({"heartbeat_ms": 1 << 40}, "heartbeat"),
    ):
        s = make(**options)
        s.options |= options
        s.addresses = {k: v for k, v in s.addresses.items() if k not in options}
        code, said = s.refuses_to_start()
        check(code not in (0, None) and code > 0, options, "was taken:", code, said)
        check(word in said, options, "is not named:", said)
    code, said = make().refuses_to_start("--check-config")
    check(code == 0 and "sound" in said, said)


@case(own=True)
def flags_win_over_the_environment_over_the_file(make):
    """A value that is refused shows who was heard."""
    for file, environment, flag, is_sound in (
        (-1, None, None, False), (-1, 8, None, True), (8, -1, None, False), (-1, -1, 8, True),
        (8, 8, -1, False),
    ):
        s = make(env={} if environment is None else {"RXTD_MAX_LIVE": str(environment)})
        s.configure(max_live=file)
        code, said = s.refuses_to_start("--check-config", *([] if flag is None else ["--max-live", str(flag)]))
        check((code == 0) == is_sound and ("sound" in said) == is_sound, file, environment, flag, said)


@case(own=True)
def the_file_that_is_shipped_is_sound(make):
    s = make()
    s.addresses = {}  # those of the file
    s.options = {"config": document.ROOT / "tools" / "rxtd" / "rxtd.ini"}
    code, said = s.refuses_to_start("--check-config")
    check(code == 0 and "sound" in said, said)


@case(rows=["second server on one store file"], own=True)
def two_servers_on_one_store(make):
    s = make().start()
    peer = s.peer()
    peer.open("s")
    second = make(folder=s.folder)
    second.addresses["admin"] = f"ipc://{s.folder}/other"
    code, said = second.refuses_to_start()
    check(code > 0 and "store" in said, "two servers write one store", code, said)
    check(str(s.process.pid) in said, "who has it is not named:", said)
    peer.turn("s", "hi").remembered()
    s.stop()


@case(tenants=["a", "b"])
def reload_reads_the_keys_again(s):
    """RELOAD and SIGHUP: who is not in the file any more may not connect anew."""
    admin = s.peer("admin")

    def opens(tenant):
        late = s.peer(tenant=tenant, hello=None)
        late.send("HELLO", {"versions": [1]}, id=NO_ID)
        return late.receive(0.5) is not None

    for by in (lambda: admin.call("RELOAD", {}), lambda: s.signal(signal.SIGHUP)):
        for out, left in (("b", "a"), ("a", "b")):
            s.write_clients([left])
            by()
            until(lambda: opens(left), f"the key of {left} was put in")
            check(not opens(out), "a key that was taken out still opens:", out)
            check(admin.call("HEALTH", {})["live"], "after a reload")
    s.write_clients(["a", "b"])
    admin.call("RELOAD", {})
    s.peer(tenant="a").open("s")
