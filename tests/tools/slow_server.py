"""A server of RXTP/1 whose delays are programmed, and which writes down those that it really made:
what a load test must find out. Its thread sends everything at its time; a stall holds up all of it,
also what comes in."""

import heapq
import itertools
import pathlib
import sys
import threading
import time

import msgpack
import zmq

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

from fake_server import (  # noqa: E402
    ACCEPTED, CANCEL, CREDIT, DONE, ERASE, ERROR, FINAL, GET, HEADER, HELLO, INFO, MEMORY, MEMORY_FAILED,
    NO_ID, OPEN, PING, PONG, STORED, TOKEN, TURN, WELCOME, WELCOME_BODY, error,
)

N_TOKEN = 8


class Turn:
    """What one turn of a session got. Times of the clock that the tool reads, in microseconds."""

    def __init__(self, session, number):
        self.session, self.number = session, number
        self.came_us = self.first_us = self.done_us = None


class Peer:
    """A connection: what it granted, what was sent under it, and what waits for more (section 7)."""

    def __init__(self, credit):
        self.first_credit = self.credit = credit
        self.n_grant = self.n_bytes = 0
        self.sessions = set()  # that speak on it
        self.waiting = []


def now_us():
    return time.monotonic_ns() // 1000


class SlowServer:
    """first_ms(turn) and token_ms(turn) are the delays of the turn with this number (from 1). stall:
    (turns that have come when it begins, its seconds). refuse: numbers of turns, over all sessions,
    that are refused; forget: sessions whose last turn is not there at the end; unmemorable: numbers
    of turns of each session whose memory fails behind DONE; recovers: at the end it is there all the
    same; alone: memories are made one after another; CANCEL always comes too late. busy: how often each OPEN, GET, ERASE and TURN that is asked for
    again is refused first."""

    def __init__(self, first_ms, token_ms, memory_ms=1, stall=None, refuse=(), forget=(), unmemorable=(),
                 recovers=False, busy=0, alone=False):
        self.first_ms, self.token_ms, self.memory_ms = first_ms, token_ms, memory_ms
        self.stall, self.refuse, self.forget = stall, set(refuse), set(forget)
        self.unmemorable, self.recovers = set(unmemorable), recovers
        self.busy, self._refused = busy, {}  # request -> (times, when it may come again)
        self.too_early = 0
        self.alone, self._remembered_us = alone, 0
        self._done = {}  # request -> DONE
        self.turns = []  # Turn, as they came
        self.peers = {}  # identity -> Peer
        self.n_dry = 0  # turns that asked for no memory
        self.late_us = 0  # behind its programme, at most: the machine had no time
        self._sessions = {}  # name -> turns
        self._order = itertools.count()
        self._due = []  # (time, order, what to do)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.sndhwm = 0
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def n_session(self):
        return len(self._sessions)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def _run(self):
        while not self._stop.is_set():
            while self._due and self._due[0][0] <= now_us():
                at_us, _, do = heapq.heappop(self._due)
                self.late_us = max(self.late_us, now_us() - at_us)
                do()
            wait_us = self._due[0][0] - now_us() if self._due else 50000
            if self._socket.poll(min(max(wait_us, 0) / 1000, 50)):
                self._receive()
            if self.stall and len(self.turns) >= self.stall[0]:
                time.sleep(self.stall[1])
                self.stall = None

    def _later(self, at_us, do):
        heapq.heappush(self._due, (at_us, next(self._order), do))

    def _send(self, peer, type, request, body, flags=0, sequence=0):
        data = msgpack.packb(body)
        header = HEADER.pack(b"RXTP", 1, type, flags, request, sequence, len(data))
        if request == NO_ID:
            self._socket.send_multipart([peer, header, data])
            return
        self.peers[peer].waiting.append((type, header, data))
        self._pump(peer)

    def _pump(self, peer):
        """TOKENs only while there is credit, and nothing before what has waited longer."""
        p = self.peers[peer]
        while p.waiting and (p.credit > 0 or p.waiting[0][0] != TOKEN):
            type, header, data = p.waiting.pop(0)
            if type == TOKEN:
                p.credit -= len(header) + len(data)
                p.n_bytes += len(header) + len(data)
            self._socket.send_multipart([peer, header, data])

    def _receive(self):
        peer, head, data = self._socket.recv_multipart()
        _, _, type, _, request, sequence, _ = HEADER.unpack(head)
        body = msgpack.unpackb(data)
        name = body.get("session")
        if type == HELLO:
            self.peers[peer] = Peer(body["credit"])
            self._send(peer, WELCOME, NO_ID, WELCOME_BODY)
        elif type == PING:
            self._send(peer, PONG, NO_ID, {}, sequence=sequence)
        elif type == TURN:
            self._turn(peer, request, body)
        elif type in (OPEN, GET, ERASE) and self._is_busy(request):
            self._send(peer, ERROR, request, error(301, "busy", True, 30), FINAL)
        elif type in (OPEN, GET):
            n = self._sessions.setdefault(name, 0)
            n -= type == GET and int(name.rsplit("-", 1)[1]) in self.forget
            version = n - (0 if self.recovers else sum(v <= n for v in self.unmemorable))
            done = {"session": name, "info": {"session": name, **INFO, "version": version, "n_turn": n}}
            if type == GET:
                done |= {"last_ids": [], "n_query": 0}
            self._send(peer, DONE, request, done, FINAL)
        elif type == ERASE:
            self._sessions.pop(name, None)
            self._send(peer, DONE, request, {"session": name}, FINAL)
        elif type == CREDIT:
            self.peers[peer].credit += body["bytes"]
            self.peers[peer].n_grant += 1
            self._pump(peer)
        else:
            assert type == CANCEL, type

    def _is_busy(self, request):
        times, again_us = self._refused.get(request, (0, 0))
        self.too_early += now_us() < again_us
        self._refused[request] = times + 1, now_us() + 30_000
        return times < self.busy

    def _turn(self, peer, request, body):
        name = body["session"]
        self.peers[peer].sessions.add(name)
        if request in self._done and self._is_busy(request):
            self._send(peer, ERROR, request, error(301, "busy", True, 30), FINAL)
            return
        if request in self._done:
            for k in range(N_TOKEN):
                self._send(peer, TOKEN, request, {"text": "x", "ids": [7]}, STORED, k)
            self._send(peer, DONE, request, self._done[request], FINAL | STORED, N_TOKEN)
            return
        turn = Turn(name, sum(t.session == name for t in self.turns) + 1)
        turn.came_us = now_us()
        self.turns.append(turn)
        if len(self.turns) in self.refuse:
            self._send(peer, ERROR, request, error(301, "busy", True), FINAL)
            return
        dry = body.get("commit") == "never"
        self.n_dry += dry
        self._sessions[name] += not dry
        price = {"tokens_max": 256, "bytes": 1, "us_expected": 1}
        self._send(peer, ACCEPTED, request, {"session": name, "price": price, "position": 0})
        first_us = turn.came_us + round(1000 * self.first_ms(turn.number))
        for k in range(N_TOKEN):
            at_us = first_us + round(1000 * k * self.token_ms(turn.number))
            self._later(at_us, lambda k=k: self._token(peer, request, turn, k, dry))

    def _token(self, peer, request, turn, k, dry):
        if k == 0:
            turn.first_us = now_us()
        self._send(peer, TOKEN, request, {"text": "x", "ids": [7]}, sequence=k)
        if k < N_TOKEN - 1:
            return
        turn.done_us = now_us()
        version = turn.number
        usage = {"queue_us": 0, "first_token_us": turn.first_us - turn.came_us,
                 "answer_us": turn.done_us - turn.came_us, "journal_us": 0}
        done = {"session": turn.session, "finish": "length", "n_query": 5, "n_answer": N_TOKEN,
                "read_version": version - 1, "pending_version": version, "usage": usage}
        self._done[request] = {k: v for k, v in done.items() if k != "usage"}
        self._send(peer, DONE, request, done, FINAL if dry else 0, sequence=N_TOKEN)
        if dry:
            return
        if turn.number in self.unmemorable:
            failed = {"session": turn.session, "version": version - 1, **error(408, "not_finite")}
            self._send(peer, MEMORY_FAILED, request, failed, FINAL, N_TOKEN)
            return
        start_us = max(turn.done_us, self._remembered_us) if self.alone else turn.done_us
        self._remembered_us = start_us + 1000 * self.memory_ms
        lag_us = self._remembered_us - turn.done_us
        memory = {"session": turn.session, "version": version, "stm_hash": bytes(16),
                  "lag_us": lag_us, "memory_us": lag_us}
        self._later(self._remembered_us,
                    lambda: self._send(peer, MEMORY, request, memory, FINAL, N_TOKEN))
