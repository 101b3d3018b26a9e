"""The Python client, both kinds, against a server that misbehaves when told to."""

import asyncio
import io
import unittest

from fake_server import (
    CANCEL, CHOOSE, CREDIT, DONE, DRAINING, ERASE, ERROR, HELLO, MEMORY, RESUME, TURN, FakeServer,
    error,
)

import rxt_client
from rxt_client import core as client_core
from rxt_client import types as client_types

QUERY = "Grüß Gott, 東京 ist weit"  # more bytes than characters: tokens end inside code points

client_core.QUIET_S = 0.05  # a second is long for a test


class Asynchronous:
    """An AsyncClient behind the calls of a Client, so that every test runs with both."""

    def __init__(self, endpoint, **options):
        self._loop = asyncio.new_event_loop()

        async def make():
            return rxt_client.AsyncClient(endpoint, **options)

        self._client = self._wait(make())

    def _wait(self, what):
        return self._loop.run_until_complete(what)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.close()
        self._loop.close()

    def sessions(self, **how):
        async def collect():
            return [info async for info in self._client.sessions(**how)]

        return self._wait(collect())

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if name not in ("turn", "remember", "rewind", "reset"):
            return lambda *a, **k: self._wait(method(*a, **k))

        async def start(a, k):
            return method(*a, **k)

        return lambda *a, **k: AsynchronousTurn(self._wait, self._wait(start(a, k)))


class AsynchronousTurn:
    def __init__(self, wait, turn):
        self._wait = wait
        self._turn = turn

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._wait(self._turn.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def cancel(self):
        async def cancel():
            self._turn.cancel()

        self._wait(cancel())

    def __getattr__(self, name):
        value = getattr(self._turn, name)
        return (lambda *a: self._wait(value(*a))) if callable(value) else value


class Calls:
    """Tests of one kind of client; `make` is Client or Asynchronous."""

    make = None

    def setUp(self):
        self.server = self.enterContext(FakeServer())

    def client(self, **options):
        here = self.server.endpoint
        options = {"state": here, "admin": here, "timeout": 20} | options
        return self.enterContext(type(self).make(here, **options))

    def test_a_turn_streams_ends_and_is_remembered(self):
        turn = self.client().turn("anna", QUERY, temperature=0.5)
        texts = [token.text for token in turn]
        self.assertGreater(len(texts), 5)
        self.assertEqual("".join(texts), QUERY)
        self.assertEqual(bytes(turn.ids[0]).decode(), QUERY)
        self.assertEqual(turn.price.tokens_max, 256)
        self.assertEqual(turn.answer(), QUERY)
        self.assertEqual(turn.done.n_answer, len(QUERY.encode()))
        self.assertEqual(turn.remembered().version, 1)
        self.assertEqual(self.server.log[-1][2]["temperature"], 0.5)
        self.assertNotIn("seed", self.server.log[-1][2])

    def test_turns_run_beside_each_other(self):
        client = self.client()
        turns = [client.turn(f"s{k}", f"{QUERY} {k}") for k in range(20)]
        self.assertEqual([t.answer() for t in reversed(turns)],
                         [f"{QUERY} {k}" for k in reversed(range(20))])

    def test_verbs(self):
        client = self.client()
        for name in "abcde":
            self.assertEqual(client.open(name, seed=3).session, name)
        self.assertEqual(client.get("a").version, 0)
        self.assertEqual([i.session for i in client.sessions()], list("abcde"))
        client.erase("c")
        self.assertEqual([i.session for i in client.sessions()], list("abde"))
        self.assertEqual([i.session for i in client.sessions(prefix="b")], ["b"])
        self.assertTrue(client.health().ready)
        self.assertEqual(client.remember("a", ids=[1, 2]).remembered().version, 1)
        self.assertEqual(client.welcome().tenant, "default")
        self.assertEqual(client.diff("a", 0).change, [(0, 0.5), (1, 2)])

    def test_arguments_are_looked_at(self):
        client = self.client()
        for wrong in (lambda: client.turn("a"), lambda: client.turn("a", "b", tool_result="c"),
                      lambda: client.remember("a", "b")):
            with self.assertRaises(ValueError):
                wrong()

    def test_candidates_and_choice(self):
        turn = self.client().turn("anna", "hm", n=3)
        self.assertEqual(turn.candidates(), ["hm", "hm!", "hm!!"])
        with self.assertRaises(ValueError):
            turn.answer()
        self.assertEqual(turn.choose(2).candidate, 2)
        self.assertEqual(turn.text, "hm!!")
        self.assertEqual(turn.remembered().version, 1)

    def test_a_choice_survives_a_restart(self):
        turn = self.client().turn("anna", "hm", n=2)
        turn.candidates()
        self.server.restart(forget=True)
        self.assertEqual(turn.choose(1).candidate, 1)
        self.assertEqual(turn.text, "hm!")
        self.assertGreaterEqual(self.server.count(CHOOSE), 1)

    def test_a_lost_connection_is_resumed(self):
        for cut in (1, 2, 5):
            with self.subTest(cut=cut):
                self.server.cut, self.server.stop_at = 3, 9
                turn = self.client().turn("anna", QUERY)
                for _ in range(3):
                    next(turn)
                self.server.restart(cut=cut)
                self.assertEqual(turn.answer(), QUERY)
                self.assertEqual(bytes(turn.ids[0]).decode(), QUERY)
                resumes = [b for t, _, b in self.server.log if t == RESUME]
                self.assertEqual(resumes[-1]["from"], 9)

    def test_a_restarted_server_gets_the_request_again(self):
        for stop in (0, 4, 9):
            with self.subTest(stop=stop):
                self.server.stop_at = stop
                turn = self.client().turn("anna", QUERY)
                for _ in range(stop // self.server.cut):
                    next(turn)
                self.server.restart(forget=True, cut=2)
                self.assertEqual(turn.answer(), QUERY)
                self.assertEqual(len({i for t, i, _ in self.server.log if t == TURN}), 1)
                self.server.cut = 3
                self.server.log.clear()

    def test_a_journaled_turn_is_answered_from_the_journal(self):
        client = self.client()
        self.server.mute = {DONE, MEMORY}
        turn = client.turn("anna", QUERY)
        while turn.text != QUERY:
            next(turn)
        self.server.restart(forget=True)
        self.assertEqual(turn.answer(), QUERY)
        self.assertTrue(turn.done.stored)
        self.assertIsNone(turn.remembered())
        self.assertEqual(client.get("anna").version, 1)

    def test_a_silent_server_is_left(self):
        self.server.heartbeat_ms = 100
        client = self.client()
        client.open("anna")
        self.server.silent = True
        turn = client.turn("anna", QUERY, queue_ms=5)
        with self.assertRaises(TimeoutError):
            self.client(timeout=0.2).open("bert")
        self.server.restart(forget=True)
        self.assertEqual(turn.answer(), QUERY)

    def test_busy_is_waited_out(self):
        self.server.refuse[TURN] = [error(301, "busy", True, 30)] * 2
        turn = self.client().turn("anna", QUERY)
        self.assertEqual(turn.answer(), QUERY)
        self.assertEqual(len({i for t, i, _ in self.server.log if t == TURN}), 1)
        self.assertEqual(self.server.count(TURN), 3)

    def test_errors_are_raised(self):
        refused = error(201, "no_session") | {"key": "session"}
        busy = error(301, "busy", True)
        for body, options, patience in (
            (refused, {}, 10), (busy, {"on_busy": "reject"}, 10), (busy, {}, 0),
            (error(302, "deadline", True), {}, 10),
        ):
            with self.subTest(name=body["name"]):
                self.server.refuse[TURN] = [body]
                with self.assertRaises(rxt_client.RxtError) as caught:
                    self.client(patience=patience).turn("anna", QUERY, **options).answer()
                self.assertEqual(caught.exception.code, body["code"])
                self.assertEqual(caught.exception.key, body.get("key"))

    def test_a_refused_choice_leaves_the_turn(self):
        turn = self.client().turn("anna", "hm", n=2)
        turn.candidates()
        self.server.say(ERROR, error(204, "exists"), turn.id, flags=0)
        with self.assertRaises(rxt_client.RxtError):
            turn.choose(0)
        turn.choose(0)
        self.assertEqual(turn.remembered().version, 1)

    def test_a_memory_that_failed_is_raised(self):
        self.server.refuse[MEMORY] = [{"code": 408, "name": "not_finite", "detail": "x"}]
        turn = self.client().turn("anna", QUERY)
        self.assertEqual(turn.answer(), QUERY)
        with self.assertRaises(rxt_client.RxtError) as caught:
            turn.remembered()
        self.assertEqual(caught.exception.name, "not_finite")

    def test_cancel(self):
        self.server.stop_at = 3
        turn = self.client().turn("anna", QUERY)
        next(turn)
        turn.cancel()
        with self.assertRaises(rxt_client.Cancelled):
            turn.answer()

    def test_a_cancel_survives_a_restart(self):
        self.server.stop_at = 3
        turn = self.client().turn("anna", QUERY)
        next(turn)
        self.server.silent = True
        turn.cancel()
        self.server.restart(forget=True, stop_at=3)
        with self.assertRaises(rxt_client.Cancelled):
            turn.answer()
        self.assertGreaterEqual(self.server.count(CANCEL), 1)

    def test_a_dry_run_has_no_memory(self):
        turn = self.client().turn("anna", QUERY, commit="never")
        self.assertIsNone(turn.remembered())
        self.assertEqual(turn.text, QUERY)

    def test_detached_is_resumed(self):
        self.server.stop_at = 3
        turn = self.client().turn("anna", QUERY)
        next(turn)
        self.server.stop_at = None
        self.server.say(ERROR, error(212, "detached", True), turn.id)
        self.assertEqual(turn.answer(), QUERY)

    def test_credit_is_given_again(self):
        client = self.client(credit=400)
        for _ in range(10):
            client.turn("anna", QUERY).answer()
            client.get("anna")  # comes after the credit
            self.assertGreaterEqual(self.server.credit, 200)
        self.assertGreater(self.server.count(CREDIT), 5)

    def test_export_and_import(self):
        client = self.client(credit=3000)
        out = io.BytesIO()
        self.assertEqual(client.export_session("anna", out), len(self.server.export))
        self.assertEqual(out.getvalue(), self.server.export)
        self.assertEqual(client.import_session("bert", out.getvalue()).version, 1)

    def test_a_missing_chunk_is_seen(self):
        self.server.chunk_from = 1
        with self.assertRaises(rxt_client.BrokenServer):
            self.client().export_session("anna", io.BytesIO())

    def test_a_draining_server_gets_nothing_new(self):
        client = self.client()
        client.open("anna")
        self.server.say(DRAINING, {"deadline_ms": 1000})
        client.get("anna")  # reads the DRAINING, or comes before it
        before = self.server.count(TURN)
        turn = client.turn("anna", QUERY)
        self.assertEqual(self.server.count(TURN), before)
        self.server.restart()
        self.assertEqual(turn.answer(), QUERY)

    def test_erase_again_is_erase(self):
        client = self.client()
        client.open("anna")
        self.server.silent = True
        self.server.heartbeat_ms = 100
        self.server.refuse[ERASE] = [error(110, "hello_needed", True), error(201, "no_session")]
        self.server.silent = False
        client.erase("anna")
        self.assertEqual(self.server.count(ERASE), 2)
        self.assertEqual(self.server.count(HELLO), 2)


class SynchronousTest(Calls, unittest.TestCase):
    make = rxt_client.Client


class AsyncTest(Calls, unittest.TestCase):
    make = Asynchronous


class PlaceTest(unittest.TestCase):
    """How a stream that comes again is joined to what was read of it."""

    def token(self, sequence, text, ids):
        body = {"text": text, "ids": ids}
        return client_core.Message(client_core.Type.TOKEN, body, sequence=sequence)

    def test_another_cut(self):
        place = client_core._Place()
        place.take(self.token(0, "ab", [1, 2]))
        place.take(self.token(2, "c", [3]))
        self.assertIsNone(place.take(self.token(0, "a", [1])))
        new = place.take(self.token(1, "bcde", [2, 3, 4, 5]))
        self.assertEqual((new.body["text"], new.body["ids"]), ("de", [4, 5]))

    def test_a_gap(self):
        place = client_core._Place()
        place.take(self.token(0, "a", [1]))
        with self.assertRaises(rxt_client.BrokenServer):
            place.take(self.token(2, "c", [3]))

    def test_unknown_keys_are_ignored(self):
        info = client_types.make(client_types.Info, {"session": "s", "colour": "red"})
        self.assertEqual(info, rxt_client.Info("s"))


if __name__ == "__main__":
    unittest.main()
