"""The C client (bridge/client.h) through the programs that use it, against a server that misbehaves
when told to: rxt chat --connect and rxt inspect --connect (environment RXT) and the example
(EXAMPLE)."""

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

from fake_server import (
    CHUNK, CHUNK_BYTES, CREDIT, DONE, DRAINING, ERROR, EXPORT, HELLO, LIST, MEMORY, OPEN, RESUME,
    TURN, FakeServer, error,
)

QUERY = "Grüß Gott, 東京 ist weit"


class ServerTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(FakeServer())

    def meanwhile(self, when, then):
        """Does `then` as soon as `when` holds; in a thread, while the program runs."""
        def watch():
            deadline = time.monotonic() + 10
            while not when() and time.monotonic() < deadline:
                time.sleep(0.005)
            then()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)


class ChatTest(ServerTest):
    def chat(self, queries, *options):
        """Plays queries; (exit code, the objects that were printed, standard error)."""
        done = subprocess.run(
            [os.environ["RXT"], "chat", "--connect", self.server.endpoint, "--session", "anna",
             "--script", "-", "--json", *options],
            input="".join(q + "\n" for q in queries), capture_output=True, text=True, timeout=600,
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def test_a_conversation(self):
        code, turns, _ = self.chat([QUERY, "zwei"], "--temperature", "0.5")
        self.assertEqual((code, [t["answer"] for t in turns]), (0, [QUERY, "zwei"]))
        self.assertEqual(bytes(turns[0]["answer_ids"]).decode(), QUERY)
        self.assertEqual([t["version"] for t in turns], [1, 2])
        self.assertEqual([t["finish"] for t in turns], ["eos", "eos"])
        asked = [b for t, _, b in self.server.log if t == TURN][0]
        self.assertEqual(asked["temperature"], 0.5)
        self.assertEqual(asked["session"], "anna")

    def test_a_lost_connection_is_resumed(self):
        for cut in (2, 5):
            with self.subTest(cut=cut):
                self.server.cut, self.server.stop_at = 3, 9
                self.server.log.clear()
                self.meanwhile(lambda: self.server.count(TURN),
                               lambda: self.server.restart(cut=cut))
                code, turns, _ = self.chat([QUERY])
                self.assertEqual((code, turns[0]["answer"]), (0, QUERY))
                self.assertEqual(bytes(turns[0]["answer_ids"]).decode(), QUERY)
                self.assertEqual([b["from"] for t, _, b in self.server.log if t == RESUME], [9])

    def test_a_restarted_server_gets_the_request_again(self):
        for stop in (0, 4, 9):
            with self.subTest(stop=stop):
                self.server.cut, self.server.stop_at = 3, stop
                self.server.log.clear()
                self.meanwhile(lambda: self.server.count(TURN),
                               lambda: self.server.restart(forget=True, cut=2))
                code, turns, _ = self.chat([QUERY])
                self.assertEqual((code, turns[0]["answer"]), (0, QUERY))
                self.assertEqual(bytes(turns[0]["answer_ids"]).decode(), QUERY)
                self.assertEqual(len({i for t, i, _ in self.server.log if t == TURN}), 1)
                self.assertEqual(self.server.count(TURN), 2)

    def test_a_journaled_turn_is_answered_from_the_journal(self):
        self.server.mute = {DONE, MEMORY}
        self.meanwhile(lambda: self.server.count(TURN), lambda: self.server.restart(forget=True))
        code, turns, _ = self.chat([QUERY])
        self.assertEqual((code, turns[0]["answer"], turns[0]["version"]), (0, QUERY, 1))

    def test_a_silent_server_is_left(self):
        self.server.heartbeat_ms = 100

        def silent():
            self.server.silent = True
            time.sleep(2)
            self.server.restart(forget=True)

        self.server.stop_at = 3
        self.meanwhile(lambda: self.server.count(TURN), silent)
        code, turns, _ = self.chat([QUERY])
        self.assertEqual((code, turns[0]["answer"]), (0, QUERY))
        self.assertGreaterEqual(self.server.count(HELLO), 2)

    def test_busy_is_waited_out_and_errors_are_told(self):
        self.server.refuse[TURN] = [error(301, "busy", True, 30), error(301, "busy", True)]
        code, turns, _ = self.chat([QUERY])
        self.assertEqual((code, turns[0]["answer"], self.server.count(TURN)), (0, QUERY, 3))
        self.server.refuse[TURN] = [error(209, "limit")]
        code, turns, _ = self.chat([QUERY, "more"], "--keep-going")
        self.assertEqual(code, 1)
        self.assertEqual(turns[0]["status"], "RXT_ELIMIT")
        self.assertIn("limit", turns[0]["error"])
        self.assertEqual(turns[1]["answer"], "more")

    def test_a_memory_that_failed_is_told(self):
        self.server.refuse[MEMORY] = [{"code": 408, "name": "not_finite", "detail": "x"}]
        code, turns, _ = self.chat([QUERY])
        self.assertEqual((code, turns[0]["status"]), (1, "RXT_ENONFINITE"))

    def test_credit_is_given_again(self):
        long = "äöü" * 300
        self.server.cut = 1
        code, turns, _ = self.chat([long] * 8)
        self.assertEqual((code, {t["answer"] for t in turns}), (0, {long}))
        self.assertGreater(self.server.credit, 1 << 18)

    def test_nobody_is_there(self):
        self.server.silent = True
        done = subprocess.run(
            [os.environ["RXT"], "chat", "--connect", "nowhere", "--script", "-"],
            input="hi\n", capture_output=True, text=True, timeout=600,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("nowhere", done.stderr)

    def test_other_versions(self):
        self.server.refuse[HELLO] = [error(109, "bad_version")]
        code, _, said = self.chat([QUERY])
        self.assertEqual(code, 1)
        self.assertIn("version", said)

    def test_what_is_not_asked_for_is_ignored(self):
        self.server.stop_at = 3

        def strange():
            self.server.say(DRAINING, {"deadline_ms": 1000}, flags=0)
            self.server.say(ERROR, error(302, "deadline", True), bytes(range(16)))
            self.server.restart()

        self.meanwhile(lambda: self.server.count(TURN), strange)
        code, turns, _ = self.chat([QUERY])
        self.assertEqual((code, turns[0]["answer"]), (0, QUERY))


class InspectTest(ServerTest):
    """LIST, EXPORT and DIFF: what is shown of the session is what its export has."""

    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for arguments in [
                ["chat", "--session", "anna", "--seed", "7", "--script", "-"],
                ["session", "export", "anna", "--file", folder / "anna.rxt"],
            ]:
                subprocess.run([os.environ["RXT"], *arguments, "--store", folder / "a.db"],
                               input="My name is Anna.\n", capture_output=True, text=True,
                               timeout=600, check=True)
            cls.export = (folder / "anna.rxt").read_bytes()

    def setUp(self):
        super().setUp()
        self.server.export = self.export

    def inspect(self, *options):
        """(exit code, the object that was printed, standard error)."""
        at = self.server.endpoint
        done = subprocess.run(
            [os.environ["RXT"], "inspect", "--connect", at, "--json", *options],
            capture_output=True, text=True, timeout=600,
        )
        return done.returncode, json.loads(done.stdout or "null"), done.stderr

    def session(self, *options):
        return self.inspect("--state", self.server.endpoint, "--session", "anna", *options)

    def test_a_list_of_many_pages(self):
        names = [f"s{k}" for k in range(7)]
        self.server._sessions = dict.fromkeys(names, 3)
        code, shown, _ = self.inspect()
        self.assertEqual((code, [s["session"] for s in shown["sessions"]]), (0, names))
        self.assertEqual({s["version"] for s in shown["sessions"]}, {3})
        after = [b["after"] for t, _, b in self.server.log if t == LIST]
        self.assertEqual(after, ["", "s1", "s3", "s5"])

    def test_a_difference_of_another_shape(self):
        code, _, said = self.session("--version", "1", "--against", "0")
        self.assertEqual(code, 1)
        self.assertIn("another shape", said)

    def test_an_export(self):
        code, shown, said = self.session()
        self.assertEqual((code, said), (0, ""))
        self.assertEqual([t["version"] for t in shown["turns"]], [1])
        granted = sum(b["bytes"] for t, _, b in self.server.log if t == CREDIT)
        self.assertGreater(granted, len(self.export) - (1 << 20) // 2)

    def test_an_export_whose_connection_is_lost_begins_again(self):
        self.server.stop_chunk = len(self.export) // CHUNK_BYTES // 2
        self.meanwhile(lambda: self.server.count(EXPORT), lambda: self.server.restart())
        code, shown, said = self.session()
        self.assertEqual((code, said), (0, ""))
        self.assertEqual([t["version"] for t in shown["turns"]], [1])
        self.assertEqual(self.server.count(EXPORT), 2)

    def test_bytes_that_are_missing_are_told(self):
        self.server.chunk_from = 1
        code, _, said = self.session()
        self.assertEqual(code, 1)
        self.assertIn("chunk 1 where 0 is next", said)
        self.server.mute = {CHUNK}
        code, _, said = self.session()
        self.assertEqual(code, 1)
        self.assertIn(f"0 bytes of an export of {len(self.export)}", said)

    def test_refusals_are_told(self):
        self.server.refuse[EXPORT] = [error(405, "corrupt")]
        code, _, said = self.session()
        self.assertEqual(code, 1)
        self.assertIn("corrupt", said)


class ExampleTest(unittest.TestCase):
    def test_it_streams_one_answer(self):
        with FakeServer() as server:
            done = subprocess.run(
                [os.environ["EXAMPLE"], server.endpoint, "anna", QUERY],
                capture_output=True, text=True, timeout=600,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            n = len(QUERY.encode())
            self.assertEqual(done.stdout, f"{QUERY}\n({n} tokens)\n(version 1)\n")
            self.assertEqual(server.count(OPEN), 1)
            server.refuse[TURN] = [error(201, "no_session")]
            done = subprocess.run(
                [os.environ["EXAMPLE"], server.endpoint, "anna", QUERY],
                capture_output=True, text=True, timeout=600,
            )
            self.assertEqual(done.returncode, 1)
            self.assertIn("no_session", done.stderr)


if __name__ == "__main__":
    unittest.main()
