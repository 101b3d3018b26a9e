"""rxt load against the real server: the page and the picture of a run have what they should, the
gauges are those of the server, a stateless turn costs what its history is long, and a soak with
faults loses nothing."""

import html.parser
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import urllib.request

from run_rxt import MODEL, RXT

RXTD = os.environ["RXTD"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sections, self.charts, self.links, self.open = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "section":
            self.sections.append(attrs["id"])
        if tag == "svg":
            self.charts[self.sections[-1]] = int(attrs["data-series"])
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "srcset") or tag == "script"]


def serve(folder, port):
    """A server at folder/turn with metrics at the port."""
    return subprocess.Popen(
        [RXTD, "--model", MODEL, "--store", folder / "store.db", "--turn", f"ipc://{folder}/turn",
         "--metrics", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL,
    )


def load(folder, *options, code=None):
    done = subprocess.run(
        [RXT, "load", "--connect", f"ipc://{folder}/turn", "--json", folder / "run.json", *map(str, options)],
        capture_output=True, text=True, timeout=200,
    )
    if code is not None and done.returncode != code:
        raise AssertionError(f"exit {done.returncode}, not {code}:\n{done.stdout}{done.stderr}")
    return done, json.loads((folder / "run.json").read_text())


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return page.read().decode()


def check_run(folder):
    port = free_port()
    server = serve(folder, port)
    try:
        done, run = load(
            folder, "--sessions", 3, "--turns", 10, "--rate", 30, "--arrivals", "even", "--fork", "0.1",
            "--resend", "0.2", "--cancel", "0.1", "--slow", "0.34", "--max-tokens", 4, "--baseline", "history",
            "--limit-turn-ms", 60000, "--metrics", f"http://127.0.0.1:{port}/metrics", "--pid",
            server.pid, "--store", folder / "store.db", "--html", folder / "run.html", "--png",
            folder / "run.png", "--csv", folder / "run.csv",
        )
        commits = int(re.search(r"^rxt_commits_total (\d+)$", metrics(port), re.M)[1])
    finally:
        server.terminate()
        assert server.wait(timeout=600) == 0
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr  # how constant: not asked here
    assert done.stdout.rstrip().splitlines()[-1].split(":")[0] in ("CONSTANT", "NOT CONSTANT", "NOT SHOWN")
    facts = run["run"]
    # The seed draws 5 turns to be cancelled: they are not good, also where it was too late for that,
    # as it may be for all of them where a token takes a tenth of a millisecond.
    cancelled = facts["cancelled"] or 0
    assert facts["sent"] == 30 and facts["done"] + cancelled == 30 and facts["lost"] == 0, facts
    assert cancelled <= 5 and facts["good"] == 25 / 30, facts
    measured = {row["measure"]: row["n"] for row in run["latency"]}
    assert measured["fork"] >= 1 and measured["repeated request"] >= 1, measured
    check_baseline(run, commits)
    grown = {row["gauge"]: row for row in run["growth"]}
    assert set(grown) == {"rss_bytes", "session_bytes", "store_bytes", "open_files", "threads"}, grown
    assert grown["rss_bytes"]["late"] > 30e6 and grown["threads"]["late"] >= 4
    check_pictures(folder, run)
    sessions = subprocess.run([RXT, "session", "list", "--store", folder / "store.db", "--json"],
                              capture_output=True, text=True, check=True).stdout
    assert "load-" not in sessions, "sessions of the run are erased"


def check_baseline(run, commits):
    rows = run["baseline"]
    assert [r["turn"] for r in rows] == [1, 2, 5, 10]
    assert rows[0]["each_ms"] is None
    assert all(r["each_ms"] * (r["turn"] - 1) < r["first_ms"] < r["turn_ms"] for r in rows[1:]), rows
    # Every earlier turn was remembered again: 0 + 1 + 4 + 9, and 4 turns behind them.
    assert commits == run["run"]["done"] + 14 + 4, commits
    assert all(a["decoder_ms"] <= b["decoder_ms"] for a, b in zip(rows, rows[1:])), rows


def check_pictures(folder, run):
    page = Page((folder / "run.html").read_text())
    charts = {"first_token_by_turn": 3, "turn_by_turn": 3, "memory_by_turn": 3, "distribution": 4,
              "server_bytes": 3, "server_queues": 3, "baseline_chart": 5}
    assert page.charts == charts, page.charts
    for key in ("verdict", "run", "constant", "latency", "turns", "growth", "baseline"):
        assert key in page.sections and key in run, key
    assert page.links == [], "nothing is fetched, no script runs"
    png = (folder / "run.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10000
    assert len((folder / "run.csv").read_text().splitlines()) == 31


def check_young(folder):
    """Young sessions beside the old ones: fresh ones every 50 turns, and erased like the others."""
    server = subprocess.Popen(
        [RXTD, "--model", MODEL, "--store", folder / "young.db", "--turn", f"ipc://{folder}/turn"],
        stderr=subprocess.DEVNULL,
    )
    try:
        done, run = load(
            folder, "--sessions", 2, "--young", 1, "--turns", 500, "--seconds", 5.5, "--rate", 30, "--arrivals",
            "even", "--max-tokens", 2, "--warmup", 5, "--html", folder / "young.html",
            "--csv", folder / "young.csv",
        )
    finally:
        server.terminate()
        assert server.wait(timeout=600) == 0
    assert done.returncode == 2, done.stdout + done.stderr  # too few turns
    facts = run["run"]
    assert (facts["sessions"], facts["young"], facts["done"], facts["lost"]) == (2, 1, 165, 0), facts
    lines = {row["measure"]: row["verdict"] for row in run["constant"]}
    assert [m for m in lines if lines[m] == "does not decide"] == [
        "first token, plain line", "turn, plain line", "memory lag, plain line"], lines
    rows = [line.split(",")[:2] for line in (folder / "young.csv").read_text().splitlines()[1:]
            if ",not sent," not in line]
    turns = {s: [int(t) for session, t in rows if session == s] for s in ("0", "1", "2", "3")}
    assert {s: len(t) for s, t in turns.items()} == {"0": 55, "1": 55, "2": 50, "3": 5}
    assert all(t == list(range(1, len(t) + 1)) for t in turns.values()), turns
    charts = Page((folder / "young.html").read_text()).charts
    assert charts["first_token_by_turn"] == 4, charts
    sessions = subprocess.run([RXT, "session", "list", "--store", folder / "young.db", "--json"],
                              capture_output=True, text=True, check=True).stdout
    assert "load-" not in sessions, "sessions of the run are erased"


def check_soak(folder):
    (folder / "plan").write_text("# what is done\n0.8 kill\n1.8 pause 0.3\n2.3 reconnect\n"
                                 "2.6 storm 20\n3 stop\n")
    command = (f"{RXTD} --model {MODEL} --store {folder}/soak.db --turn ipc://{folder}/turn")
    _, run = load(
        folder, "--sessions", 3, "--turns", 24, "--rate", 18, "--faults", folder / "plan", "--server",
        command, "--server-log", folder / "log", "--store", folder / "soak.db", code=0,
    )
    assert run["verdict"].startswith("NOTHING LOST"), run["verdict"]
    faults = {row["fault"]: row["n"] for row in run["faults"]}
    assert faults == {"kill": 1, "stop": 1, "pause": 1, "disk_full": 0, "reconnect": 1, "storm": 1,
                      "ended on its own": 0}, faults
    facts = run["run"]
    # A server that is slow to start is still away when the next fault comes: it may be one loss.
    assert facts["lost"] == 0 and facts["done"] > 24 and facts["connected"] >= 1, facts
    assert {row["gauge"] for row in run["growth"]} >= {"rss_bytes", "store_bytes"}


def check_asides(folder):
    """A repeat, a fork or the end of one that is under way on a lost connection comes to its end, too."""
    (folder / "plan").write_text("".join(f"{k / 10} reconnect\n" for k in range(2, 30)) + "1.55 kill\n")
    command = f"{RXTD} --model {MODEL} --store {folder}/aside.db --turn ipc://{folder}/turn"
    _, run = load(
        folder, "--sessions", 4, "--turns", 20, "--rate", 40, "--max-tokens", 2, "--resend", "0.5",
        "--fork", "1", "--faults", folder / "plan", "--server", command, "--server-log", folder / "log",
        code=0,
    )
    assert run["verdict"].startswith("NOTHING LOST"), run["verdict"]
    assert run["run"]["unanswered"] is None and run["run"]["connected"] >= 5, run["run"]
    measured = {row["measure"]: row["n"] for row in run["latency"]}
    assert measured["fork"] > 1 and measured["repeated request"] > 1, measured
    sessions = subprocess.run([RXT, "session", "list", "--store", folder / "aside.db", "--json"],
                              capture_output=True, text=True, check=True).stdout
    assert "load-" not in sessions, "forks are erased"


def check_vanishing(folder):
    """Connections go in the middle of answers: nothing is lost, nothing said twice, and that they
    went is no error."""
    server = subprocess.Popen(
        [RXTD, "--model", MODEL, "--store", folder / "vanish.db", "--turn", f"ipc://{folder}/turn"],
        stderr=subprocess.DEVNULL,
    )
    try:
        done, run = load(
            folder, "--sessions", 6, "--turns", 20, "--rate", 24, "--vanish", "0.5", "--slow", "0.17",
            "--cancel", "0.1", "--resend", "0.1",
        )
    finally:
        server.terminate()
        assert server.wait(timeout=600) == 0
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    facts = run["run"]
    assert facts["sent"] == 120 and facts["done"] + facts["cancelled"] == 120, facts
    assert facts["lost"] == 0 and facts["doubled"] is None and facts["connected"] is None, facts
    # Of 3 sessions, 15 turns are drawn; some are over before the connection can go.
    assert 3 <= facts["vanished"] <= 30, facts
    # Those of the two others count: 2 of 3 of that kind, and not the cancelled ones.
    assert facts["full"] <= 40, facts


def check_last_stop(folder):
    """The server stops as the last turn ends: the connections, also the slow one, find it again while
    everything is asked for once more."""
    (folder / "plan").write_text("1.05 stop\n")
    command = f"{RXTD} --model {MODEL} --store {folder}/stop.db --turn ipc://{folder}/turn"
    _, run = load(
        folder, "--sessions", 4, "--turns", 5, "--rate", 20, "--max-tokens", 2, "--slow", "0.5",
        "--faults", folder / "plan", "--server", command, code=0,
    )
    assert run["verdict"].startswith("NOTHING LOST"), run["verdict"]
    assert {row["fault"]: row["n"] for row in run["faults"]}["ended on its own"] == 0


def check_complaints(folder):
    def refused(*options):
        done = subprocess.run([RXT, "load", *options], capture_output=True, text=True, timeout=30)
        assert done.returncode == 3, done
        return done.stderr

    (folder / "plan").write_text("1 kill\n2 pause\n")
    soak = ("--faults", str(folder / "plan"), "--server", "true")
    assert "line 2" in refused(*soak)
    (folder / "plan").write_text("2 disk_full 1\n")
    assert "--disk-switch" in refused(*soak)
    assert "--server" in refused("--faults", "plan")
    assert "--rate" in refused("--rate", "3", "--think-ms", "4")
    assert "--find-rate" in refused("--rate", "3", "--find-rate", "4")
    for option in (
        ("--turns", "100"), ("--warmup", "1"), ("--seconds", "9"), ("--prefix", "p"), ("--csv", "f"),
    ):
        assert option[0] in refused("--find-rate", "4", *option), option
    for option in (("--find-rate", "4"), ("--ramp-s", "3"), ("--slow", "0.1"), ("--dry-run",)):
        assert option[0] in refused("--young", "1", *option), option
    assert "--turns 500" in refused("--young", "1", "--turns", "499")
    assert "20,000,000" in refused("--young", "1000000", "--turns", "500")
    assert "--dry-run" in refused("--dry-run", "--resend", "0.5")
    assert "--vanish" in refused("--slow", "0.5", "--vanish", "0.5")
    assert "lognormal" in refused("--think-ms", "often")
    assert "1000000000" in refused("--think-ms", "1e300")
    assert "unknown option" in refused("--no-such")
    assert "does not exist" not in refused("--script", str(folder / "none"))


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        check_complaints(folder)
        check_run(folder)
        check_young(folder)
        check_soak(folder)
        check_asides(folder)
        check_vanishing(folder)
        check_last_stop(folder)


if __name__ == "__main__":
    main()
