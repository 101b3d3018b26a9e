"""rxt load against a server whose delays are programmed (environment RXT): turn by turn, its figures
are those that the server made, counted from the schedule; what it computes of them is what numpy
does; its verdicts are right. The server writes down what it really did, so that a busy machine
disturbs little."""

import csv
import json
import math
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

import numpy as np

from slow_server import N_TOKEN, SlowServer

SESSIONS = 4


class LoadTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def load(self, server, turns, *options):
        """Plays it; (exit code, the report, rows of the CSV, what the server knows of each row)."""
        with server:
            done = subprocess.run(
                [os.environ["RXT"], "load", "--connect", server.endpoint, "--sessions", str(SESSIONS),
                 "--turns", str(turns), "--think-ms", "100", "--json", self.folder / "run.json",
                 "--csv", self.folder / "run.csv", *options],
                capture_output=True, text=True, timeout=600,
            )
        self.assertIn(done.returncode, (0, 1, 2, 3), done.stderr)
        self.output = done.stdout + done.stderr
        report = json.loads((self.folder / "run.json").read_text())
        with open(self.folder / "run.csv", newline="") as f:
            rows = [{k: v if k == "outcome" else int(v) for k, v in row.items()}
                    for row in csv.DictReader(f)]
        made = {(int(t.session.rsplit("-", 1)[1]), t.number): t for t in server.turns}
        return done.returncode, report, rows, [made.get((row["session"], row["turn"])) for row in rows]

    def assert_near(self, got, want, share=0.02):
        self.assertLess(abs(got / want - 1), share, f"{got} and {want}")

    def check_figures(self, report, rows, made):
        """What the tool says beside what the server did, from the schedule; and its medians and tails."""
        start = report["run"]["start_us"]
        table = {row["measure"]: row for row in report["latency"]}
        first = np.array([t.first_us - start - r["due_us"] for r, t in zip(rows, made)])
        turn = np.array([t.done_us - start - r["due_us"] for r, t in zip(rows, made)])
        token = np.array([(t.done_us - t.first_us) / (N_TOKEN - 1) for t in made])
        told = {
            "first token": np.array([r["first_token_us"] for r in rows]),
            "turn, to DONE": np.array([r["done_us"] for r in rows]),
        }
        told["token behind it"] = (told["turn, to DONE"] - told["first token"]) // (N_TOKEN - 1)
        for name, times in zip(told, (first, turn, token)):
            off = told[name] / np.maximum(times, 1) - 1
            # A busy machine delays what it sends and reads; the turns that it disturbed least tell.
            self.assertLess(np.quantile(np.abs(off), 0.1), 0.02, name)
            self.assertEqual(table[name]["n"], len(rows))
            for column, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
                want = np.quantile(told[name], share, method="inverted_cdf") / 1000
                self.assert_near(table[name][column], want, 0.0006)
            if name != "token behind it":
                self.assertGreater(off.min(), -0.001, "no answer is there before it was sent")
        return first, turn

    def test_constant(self):
        server = SlowServer(lambda n: 300, lambda n: 30, memory_ms=3)
        code, report, rows, made = self.load(server, 40)
        self.check_figures(report, rows, made)
        lines = {row["measure"]: row for row in report["constant"]}
        shown = {lines[m]["verdict"] for m in ("first token", "turn")}
        self.assertEqual(code, 1 if "not constant" in shown else 2 if "not shown" in shown else 0)
        self.check_oracle(report, rows, 40)
        self.assertEqual(report["run"]["lost"], 0)
        self.assertEqual({r["outcome"] for r in rows}, {"done"})
        self.assertEqual({r["server_memory_lag_us"] for r in rows}, {3000})
        self.assertGreater(report["run"]["cpu_s"], 0)

    def test_growing(self):
        server = SlowServer(lambda n: 300 + 16 * n, lambda n: 30)
        code, report, rows, made = self.load(server, 30)
        self.assertEqual(code, 1, self.output)
        self.assertIn("NOT CONSTANT", self.output)
        self.check_figures(report, rows, made)
        self.check_oracle(report, rows, 30)
        line = {row["measure"]: row for row in report["constant"]}["first token"]
        self.assertGreater(line["low"], 0.03)
        self.assertEqual((line["verdict"], line["why"]), ("not constant", "it grows"))

    def test_stalls(self):
        stall_s = 1.0
        server = SlowServer(lambda n: 300, lambda n: 30, stall=(40, stall_s))
        code, report, rows, made = self.load(server, 30)
        self.assertNotEqual(code, 0, self.output)
        first, _ = self.check_figures(report, rows, made)
        # Who waits for an answer before the next question would see the stall once a session. On
        # the schedule, ten turns of each fall into it.
        late = sum(r["first_token_us"] > 500_000 for r in rows)
        self.assertGreaterEqual(late, 6 * SESSIONS)
        self.assertGreaterEqual(max(r["first_token_us"] for r in rows), 1e6 * stall_s)
        table = {row["measure"]: row for row in report["latency"]}
        self.assertGreater(table["first token"]["max"], 0.999 * first.max() / 1000)
        self.assertLess(table["sent late by this tool"]["p50"], 10, "what waits is not the tool")

    def test_a_dry_run_leaves_no_memory(self):
        server = SlowServer(lambda n: 20, lambda n: 1)
        code, report, rows, _ = self.load(server, 8, "--dry-run")
        self.assertIn(code, (0, 1, 2), self.output)
        self.assertEqual(server.n_dry, SESSIONS * 8)
        self.assertEqual((report["run"]["done"], report["run"]["lost"]), (SESSIONS * 8, 0))
        self.assertEqual({r["memory_us"] for r in rows}, {0})
        self.assertNotIn("memory lag (server)", [row["measure"] for row in report["latency"]])

    def test_it_ends_in_time(self):
        server = SlowServer(lambda n: 5, lambda n: 1)
        code, report, rows, _ = self.load(server, 1000, "--seconds", "1.5")
        self.assertNotEqual(code, 3, self.output)
        # Gaps of 100 ms, the sessions spread over the first of them.
        self.assertEqual((report["run"]["sent"], report["run"]["done"]), (15 * SESSIONS, 15 * SESSIONS))
        self.assertEqual(report["run"]["tokens_s"], N_TOKEN * report["run"]["done_s"])
        self.assertEqual(sum(r["outcome"] == "not sent" for r in rows), (1000 - 15) * SESSIONS)

    def test_find_rate(self):
        """Memories take 25 ms each, one after another: 40 turns a second, however fast the answers."""
        with SlowServer(lambda n: 2, lambda n: 0.1, memory_ms=25, alone=True) as server:
            done = subprocess.run(
                [os.environ["RXT"], "load", "--connect", server.endpoint, "--sessions", "8", "--find-rate",
                 "3", "--arrivals", "even", "--json", self.folder / "rate.json"],
                capture_output=True, text=True, timeout=200,
            )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        report = json.loads((self.folder / "rate.json").read_text())
        # A machine without time for the server bears less than 40, but nothing bears more.
        in_time = server.late_us < 30_000
        self.assertLess(report["found"]["rate"], 44)
        self.assertGreater(report["found"]["rate"], 36 if in_time else 0)
        self.assertIn(f"BORNE: {report['found']['rate']:.1f} turns a second", done.stdout)
        # What is asked beyond it is not kept up with: by all that is asked too much.
        for t in report["trials"]:
            self.assertEqual(t["borne"], "yes" if t["drift"] <= 0.03 else "no", t)
            if t["rate"] > 44:
                more = t["drift"] - (1 - 40 / t["rate"])
                self.assertGreater(more, -0.05, t)
                self.assertLess(more, 0.05 if in_time else 1, t)
        self.assertEqual(server.n_session, 0, "sessions of the trials are erased")

    def test_find_rate_interrupted(self):
        """In a trial: what was found so far, no verdict, and nothing stays behind."""
        with SlowServer(lambda n: 2, lambda n: 0.1, memory_ms=25, alone=True) as server:
            run = subprocess.Popen(
                [os.environ["RXT"], "load", "--connect", server.endpoint, "--sessions", "8",
                 "--find-rate", "600"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            while len({t.session for t in server.turns}) < 3 and run.poll() is None:
                time.sleep(0.01)  # the probe speaks in one
            run.send_signal(signal.SIGINT)
            said, _ = run.communicate(timeout=600)
        self.assertEqual(run.returncode, 2, said)
        self.assertIn("INTERRUPTED", said)
        self.assertNotIn("BORNE", said)
        self.assertEqual(server.n_session, 0, "sessions of the trial are erased")

    def test_what_is_refused_and_lost_is_an_error(self):
        server = SlowServer(lambda n: 5, lambda n: 1, refuse=[7, 9], forget=[2])
        code, report, rows, _ = self.load(server, 6)
        self.assertEqual(code, 3, self.output)
        self.assertEqual(report["errors"], [{"code": 301, "n": 2, "sentence": "busy (busy, error 301)"}])
        self.assertEqual((report["run"]["refused"], report["run"]["lost"]), (2, 1))
        self.assertEqual(sum(r["outcome"] == "refused" and r["code"] == 301 for r in rows), 2)
        self.assertEqual(report["run"]["done"], SESSIONS * 6 - 2)

    def test_a_memory_that_fails_is_no_refusal(self):
        server = SlowServer(lambda n: 5, lambda n: 1, unmemorable=[2, 3])
        code, report, rows, _ = self.load(server, 6)
        self.assertEqual(code, 3, self.output)
        run = report["run"]
        self.assertEqual((run["done"], run["memory_failed"]), (SESSIONS * 6, SESSIONS * 2))
        self.assertEqual((run["refused"], run["unanswered"]), (None, None))
        self.assertEqual((run["lost"], run["forgotten"]), (0, SESSIONS * 2))
        self.assertEqual([(e["code"], e["n"]) for e in report["errors"]], [(408, SESSIONS * 2)])
        self.assertEqual({r["outcome"] for r in rows}, {"done"})

    def soak(self, server):
        (self.folder / "plan").write_text("")
        return self.load(server, 6, "--faults", self.folder / "plan", "--server", "sleep 60")

    def test_a_soak_that_loses_nothing(self):
        code, report, _, _ = self.soak(SlowServer(lambda n: 5, lambda n: 1))
        self.assertEqual(code, 0, self.output)
        self.assertIn("NOTHING LOST", report["verdict"])

    def test_a_soak_with_memories_that_stay_failed(self):
        """DONE promises a memory: what is in the journal alone is not remembered."""
        code, report, _, _ = self.soak(SlowServer(lambda n: 5, lambda n: 1, unmemorable=[2, 3]))
        self.assertEqual(code, 3, self.output)
        self.assertTrue(report["verdict"].startswith("NOT REMEMBERED"), report["verdict"])
        self.assertIn(f"{SESSIONS * 2} are in no memory", report["verdict"])
        self.assertEqual((report["run"]["lost"], report["run"]["forgotten"]), (0, SESSIONS * 2))

    def test_a_soak_with_memories_that_recover(self):
        server = SlowServer(lambda n: 5, lambda n: 1, unmemorable=[2, 3], recovers=True)
        code, report, _, _ = self.soak(server)
        self.assertEqual(code, 0, self.output)
        self.assertTrue(report["verdict"].startswith("NOTHING LOST"), report["verdict"])
        self.assertIn(f"{SESSIONS * 2} memories failed at first", report["verdict"])
        self.assertEqual(report["run"]["forgotten"], None)

    def test_a_busy_server_is_asked_again(self):
        """Before and after the run, when it says that one may."""
        server = SlowServer(lambda n: 5, lambda n: 1, busy=3)
        code, report, _, _ = self.load(server, 4)
        self.assertIn(code, (0, 1, 2), self.output)
        self.assertEqual((report["run"]["done"], report.get("errors")), (SESSIONS * 4, None))
        self.assertEqual((server.n_session, server.too_early), (0, 0), "erased, and not too early")
        server = SlowServer(lambda n: 5, lambda n: 1, busy=2)
        code, report, _, _ = self.soak(server)
        self.assertEqual((code, server.n_session, server.too_early), (0, 0, 0), self.output)
        self.assertIn(f"{SESSIONS * 6} asked for again", report["verdict"])

    def test_cancelled_turns_do_not_count(self):
        """Also where CANCEL came too late and the turn is done and remembered."""
        server = SlowServer(lambda n: 5, lambda n: 1)
        _, report, rows, _ = self.load(server, 6, "--cancel", "0.5")
        self.assertEqual({r["outcome"] for r in rows}, {"done"})
        n = {row["measure"]: row["n"] for row in report["latency"]}
        self.assertTrue(0 < n["first token"] < SESSIONS * 6, n)
        self.assertEqual(n["memory lag (server)"], n["first token"])

    def test_slow_sessions_have_a_pace_each(self):
        """However many they are: a connection takes 512 bytes a pause for each that speaks on it."""
        for sessions, share, n_slow in ((4, "0.25", 1), (40, "0.75", 30)):
            server = SlowServer(lambda n: 2, lambda n: 0.1)
            code, report, rows, _ = self.load(server, 4, "--sessions", str(sessions), "--slow", share)
            self.assertIn(code, (0, 1, 2), self.output)
            self.assertEqual((report["run"]["done"], report["run"]["lost"]), (4 * sessions, 0))
            slow = [p for p in server.peers.values() if p.first_credit < 1 << 20 and p.sessions]
            self.assertEqual((len(slow), sum(len(p.sessions) for p in slow)), (min(n_slow, 16), n_slow))
            for p in slow:
                self.assertEqual(p.first_credit, 512 * len(p.sessions))
                # It grants what it has read, once that is half of what it takes.
                self.assertLessEqual(p.n_grant, 2 * p.n_bytes / p.first_credit)
                self.assertGreaterEqual(p.n_grant, p.n_bytes / p.first_credit - 2)

    def test_no_time_between_turns(self):
        server = SlowServer(lambda n: 5, lambda n: 1)
        code, report, _, _ = self.load(server, 6, "--think-ms", "0", "--limit-turn-ms", "60000")
        self.assertIn(code, (0, 1, 2), self.output)
        run = report["run"]
        self.assertEqual((run["done"], run["asked_s"], run["good"]), (SESSIONS * 6, None, 1))

    def test_stopped_before_the_first_turn(self):
        server = SlowServer(lambda n: 5, lambda n: 1)
        with server:
            tool = subprocess.Popen(
                [os.environ["RXT"], "load", "--connect", server.endpoint, "--sessions", "3", "--think-ms",
                 "1000000-1000001", "--limit-turn-ms", "100", "--json", self.folder / "run.json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while server.n_session < 3 and tool.poll() is None:
                time.sleep(0.01)
            tool.send_signal(signal.SIGINT)
            out, err = tool.communicate(timeout=600)
        self.assertIn("NOT SHOWN", out, err)
        self.assertEqual((tool.returncode, err), (2, ""))
        run = json.loads((self.folder / "run.json").read_text())["run"]
        self.assertEqual((run["sent"], run["done"], run["good"]), (0, 0, None))
        self.assertLess(run["seconds"], 1000)
        self.assertEqual(server.n_session, 0, "its sessions are erased")

    def test_two_runs_ask_the_same(self):
        dues = []
        for seed in ("5", "5", "6"):
            server = SlowServer(lambda n: 2, lambda n: 0.1)
            _, _, rows, _ = self.load(server, 5, "--think-ms", "exp:40", "--seed", seed)
            dues.append([r["due_us"] for r in rows])
        self.assertEqual(dues[0], dues[1])
        self.assertNotEqual(dues[0], dues[2])

    def beside_young(self, rise, wait=0):
        """On a machine that is slower by 30 % at the end, and by 15 % to and fro; the sessions take
        longer by `rise` at their last turn, and all wait longer by `wait` (of a turn). What a quiet
        machine would show of intervals is in test_level.c."""
        turns = 500
        seconds = turns * 0.03
        began = []

        def machine():
            began.append(time.monotonic())
            share = (began[-1] - began[0]) / seconds
            return (1 + 0.15 * (2 * share - 1) + 0.15 * math.sin(20 * share)) * (1 + wait * share)

        server = SlowServer(lambda n: 20 * machine() * (1 + rise * n / turns), lambda n: 0.2)
        code, report, rows, _ = self.load(server, turns, "--young", "2", "--think-ms", "30")
        self.assertLess(code, 3, self.output)
        self.assertEqual((report["run"]["sessions"], report["run"]["young"]), (SESSIONS, 2))
        self.assertEqual((report["run"]["done"], report["run"]["lost"]), ((SESSIONS + 2) * turns, 0))
        self.assertEqual(server.n_session, 0, "young sessions are erased, too")
        self.assertEqual({t.number for t in server.turns if int(t.session.rsplit("-", 1)[1]) >= SESSIONS},
                         set(range(1, 51)))
        self.check_oracle_beside_young(report, rows, turns)
        self.assertIn("against young sessions", self.output)
        return code, {row["measure"]: row for row in report["constant"]}

    def test_constant_on_a_drifting_machine(self):
        """The machine's drift is in the plain line, and not in the other."""
        _, lines = self.beside_young(0)
        for measure in ("first token", "turn"):
            plain, line = lines[f"{measure}, plain line"], lines[measure]
            self.assertLess(abs(line["slope"]), abs(plain["slope"]))

    def test_growing_on_a_drifting_machine(self):
        code, lines = self.beside_young(1)
        self.assertEqual(code, 1, self.output)
        self.assertIn("it grows", {lines["first token"]["why"], lines["turn"]["why"]})
        self.assertIn("the plain line grows", self.output)

    def test_a_queue_that_all_wait_in(self):
        """Old and young alike: so little too slow that it is done in time all the same."""
        code, report = self.beside_young(0, 2)
        self.assertNotEqual(code, 0, self.output)
        self.assertIn("if a queue grew", self.output)

    def test_young_ones_are_fresh(self):
        """Not so with the names of sessions that are there already."""
        with SlowServer(lambda n: 2, lambda n: 0.1) as server:
            codes = [subprocess.run(
                [os.environ["RXT"], "load", "--connect", server.endpoint, "--turns", "500", "--seconds", "0.1", "--think-ms", "50",
                 "--young", "1", "--prefix", "same", "--keep"],
                capture_output=True, text=True, timeout=600) for _ in range(2)]
        self.assertIn(codes[0].returncode, (0, 1, 2), codes[0].stderr)
        self.assertEqual(codes[1].returncode, 3)
        self.assertIn("young session same-000004 has turns already", codes[1].stderr)

    def check_oracle(self, report, rows, turns, warmup=1):
        """Median, slope and interval again, with numpy, from the rows of the CSV."""
        for measure, key in (("first token", "first_token_us"), ("turn", "done_us")):
            line = {row["measure"]: row for row in report["constant"]}[measure]
            used = [r for r in rows if r["turn"] > warmup]
            y = np.array([r[key] for r in used], dtype=float)
            x = np.array([r["turn"] for r in used], dtype=float)
            blocks = max(1, min(50, (turns - warmup) // 5))
            block = ((x - 1 - warmup) * blocks // (turns - warmup)).astype(int)
            self.check_line(line, used, y, np.ones(len(y)), block, blocks, turns)

    def check_oracle_beside_young(self, report, rows, turns, warmup=1):
        for measure, key in (("first token", "first_token_us"), ("turn", "done_us")):
            line = {row["measure"]: row for row in report["constant"]}[measure]
            old = [r for r in rows if r["session"] < SESSIONS and r["turn"] > warmup]
            due = np.array([r["due_us"] for r in old])
            young = [r for r in rows if r["session"] >= SESSIONS and r["turn"] > 2]
            moments = len(young) // 20

            def moment_of(us):
                return int((us - due.min()) / (due.max() + 1 - due.min()) * moments)

            young = [r for r in young if due.min() <= r["due_us"] <= due.max()]
            moment = np.array([moment_of(us) for us in due])
            where = np.array([moment_of(r["due_us"]) for r in young])
            took = np.array([r[key] for r in young], dtype=float)
            count = np.bincount(where, minlength=moments)
            level = np.bincount(where, np.log(np.maximum(took, 1)), moments) / count
            usual = np.median(np.exp(level))
            y = np.array([max(r[key], 1) for r in old]) / np.exp(level[moment]) * usual
            weight = (count / (count + np.bincount(moment, minlength=moments)))[moment]
            median = np.median(y)
            over = np.exp(np.average(np.log(y / usual), weights=weight)) - 1
            blocks = min(50, max((turns - warmup) // 50, 10))
            self.check_line(line, old, y, weight, moment * blocks // moments, blocks, turns,
                            median * np.log(y / median))
            self.assertAlmostEqual(line["over"], over, 7)

    def check_line(self, line, used, y, weight, block, blocks, turns, height=None, draws=2000, seed=1):
        """height: what the line is of, if not of the values."""
        x = np.array([r["turn"] for r in used], dtype=float)
        session = np.array([r["session"] for r in used])
        median = np.median(y)
        self.assertAlmostEqual(line["median_ms"], median / 1000, 9)
        y = y if height is None else height
        slope = np.polyfit(x, y, 1, w=np.sqrt(weight))[0]
        self.assertAlmostEqual(line["slope"], slope * turns / median, 7)
        slopes, state = [], seed ^ 0x626F6F7473747261
        for _ in range(draws):
            drawn = [np.zeros(SESSIONS), np.zeros(blocks)]
            for w in drawn:
                for _ in range(len(w)):
                    state = mix(state)
                    w[(state >> 32) * len(w) >> 32] += 1
            w = drawn[0][session] * drawn[1][block] * weight
            middle = np.average(x, weights=w)
            spread = np.sum(w * (x - middle) ** 2)
            if spread > 0:
                slopes.append(np.sum(w * (x - middle) * y) / spread)
        low, high = np.quantile(slopes, (0.025, 0.975)) * turns / median
        self.assertAlmostEqual(line["low"], low, 7)
        self.assertAlmostEqual(line["high"], high, 7)


def mix(x):
    """splitmix64"""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


if __name__ == "__main__":
    unittest.main()
