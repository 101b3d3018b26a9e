"""A small server of RXTP/1 that misbehaves on command: what a client must survive, at the moment
that a test chooses. Its answer to a query is the query, a token a byte, so that tokens end inside
code points. It checks nothing; tests/conformance does that with the real one."""

import struct
import threading

import msgpack
import zmq

HEADER = struct.Struct("<4sBBH16sII")
HELLO, TURN, CANCEL, CREDIT, RESUME, CHOOSE, PING = 1, 2, 3, 4, 5, 6, 7
OPEN, LIST, GET, FORK, ERASE, REMEMBER = 0x10, 0x11, 0x12, 0x13, 0x16, 0x17
EXPORT, IMPORT, DIFF, CHUNK = 0x18, 0x19, 0x1A, 0x1B
HEALTH = 0x20
WELCOME, ACCEPTED, TOKEN, DONE, MEMORY = 0x81, 0x82, 0x83, 0x84, 0x85
MEMORY_FAILED, CANCELLED, PONG, DRAINING, ERROR, UNDECIDED = 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B
FINAL, STORED = 1, 2
NO_ID = bytes(16)
CHUNK_BYTES = 1000
WELCOME_BODY = {
    "version": 1, "server": "fake", "endpoint": "turn", "tenant": "default", "model": "fake",
    "model_hash": bytes(16), "bit_class": "fake", "n_vocab": 256, "max_seq_len": 256,
    "answer_min": 16, "session_bytes": 1, "stm_bytes": 1, "max_body_bytes": 262144,
    "chunk_bytes": CHUNK_BYTES, "max_candidates": 8, "max_inflight": 4096, "credit_max": 1 << 24,
    "heartbeat_ms": 5000, "grace_ms": 60000, "window": 256,
}
HEALTHY = {
    "live": True, "ready": True, "state": "serving", "step_age_us": 0, "memory_age_us": 0,
}
INFO = {
    "state": "resident", "n_turn": 0, "stm_dtype": "f32", "seed": 1, "mixed_class": False,
    "created_us": 1, "used_us": 1,
}


def error(code, name, retry=False, after=0):
    return {"code": code, "name": name, "retryable": retry, "retry_after_ms": after, "detail": name}


class FakeTurn:
    def __init__(self, body):
        self.session = body["session"]
        n = body.get("n", 1)
        self.answers = [(body["query"] + "!" * k).encode() for k in range(n)]
        self.dry = body.get("commit") == "never"
        self.journaled = False
        self.choice = 0 if n == 1 else None


class FakeServer:
    """Runs in a thread from `with` on. A test sets what is below and calls restart()."""

    def __init__(self):
        self.cut = 3  # ids in a TOKEN
        self.stop_at = None  # answers stop before this token until restart()
        self.silent = False  # answers nothing at all
        self.mute = set()  # types that are not sent until restart()
        self.heartbeat_ms = 5000
        self.chunk_from = 0  # number of the first CHUNK of an EXPORT
        self.stop_chunk = None  # an EXPORT stops before this CHUNK until restart()
        self.refuse = {}  # type -> errors that the next such requests get
        self.log = []  # (type, request id, body) of all that came
        self.credit = 0  # of the last connection
        self.export = bytes(range(256)) * 20
        self._sessions = {}
        self._turns = {}
        self._peers = set()
        self._next = None  # what restart() asks for
        self._imports = {}
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.PAIR)
        self._control.bind("inproc://control")
        self._socket = self._new_socket()
        self._port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._run)

    def _new_socket(self):
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = 0  # a ROUTER drops what a queue does not take
        return socket

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._control.send(b"stop")
        self._thread.join()
        self._socket.close()
        self._control.close()
        self._context.term()

    def restart(self, *, forget=False, stop_at=None, cut=None):
        """A new process on the same endpoint: knows no connection; with `forget`, no request that
        is not in the journal. What it was told to do wrong is over, save for stop_at and cut."""
        self._next = forget, stop_at, cut or self.cut
        self._control.send(b"restart")
        self._control.recv()

    def say(self, type, body, request=NO_ID, flags=FINAL):
        """Tells every peer something that it did not ask for."""
        self._control.send(bytes([type, flags]) + request + msgpack.packb(body))
        self._control.recv()

    def count(self, type):
        return sum(t == type for t, _, _ in self.log)

    def _run(self):
        control = self._context.socket(zmq.PAIR)
        control.connect("inproc://control")
        poller = zmq.Poller()
        while True:
            poller = zmq.Poller()
            poller.register(control, zmq.POLLIN)
            poller.register(self._socket, zmq.POLLIN)
            ready = dict(poller.poll())
            if control in ready:
                order = control.recv()
                if order == b"stop":
                    control.close()
                    return
                if order == b"restart":
                    self._start_again()
                else:
                    for peer in self._peers:
                        self._send(peer, order[0], order[2:18], msgpack.unpackb(order[18:]), order[1])
                control.send(b"")
            if self._socket in ready:
                peer, *frames = self._socket.recv_multipart()
                if not self.silent:
                    self._receive(peer, frames)

    def _start_again(self):
        forget, self.stop_at, self.cut = self._next
        self.silent = False
        self.mute = set()
        self.stop_chunk = None
        self._socket.close()
        self._peers.clear()
        if forget:
            self._turns = {k: t for k, t in self._turns.items() if t.journaled}
        while True:
            self._socket = self._new_socket()
            try:
                self._socket.bind(self.endpoint)
                return
            except zmq.ZMQError:  # the closed one is still letting go of the port
                self._socket.close()

    def _send(self, peer, type, request, body, flags=0, sequence=0, raw=None):
        if type in self.mute:
            return
        data = msgpack.packb(body)
        header = HEADER.pack(b"RXTP", 1, type, flags, request, sequence, len(data))
        self._socket.send_multipart([peer, header, data] + ([raw] if raw is not None else []))
        if type in (TOKEN, CHUNK):
            self.credit -= 32 + len(data) + len(raw or b"")

    def _receive(self, peer, frames):
        _, _, type, _, request, sequence, _ = HEADER.unpack(frames[0])
        body = msgpack.unpackb(frames[1])
        self.log.append((type, request, body))
        if self.refuse.get(type):
            self._send(peer, ERROR, request, self.refuse[type].pop(0), FINAL)
        elif type == HELLO:
            self._peers.add(peer)
            self.credit = body["credit"]
            welcome = WELCOME_BODY | {"heartbeat_ms": self.heartbeat_ms, "of_a_later_version": [1]}
            self._send(peer, WELCOME, NO_ID, welcome)
        elif peer not in self._peers:
            self._send(peer, ERROR, request, error(110, "hello_needed", True), FINAL)
        else:
            self._handle(peer, type, request, body, sequence, frames)

    def _info(self, session):
        return {"session": session, "version": self._sessions[session], **INFO}

    def _handle(self, peer, type, request, body, sequence, frames):
        session = body.get("session")
        if type == PING:
            self._send(peer, PONG, NO_ID, {}, sequence=sequence)
        elif type == CREDIT:
            self.credit += body["bytes"]
        elif type in (OPEN, GET):
            self._sessions.setdefault(session, 0)
            done = {"session": session, "info": self._info(session)}
            done |= {"last_ids": [], "n_query": 0} if type == GET else {}
            self._send(peer, DONE, request, done, FINAL)
        elif type == LIST:
            begin = body.get("prefix", "")
            names = sorted(n for n in self._sessions if n > body["after"] and n.startswith(begin))
            page = {"sessions": [self._info(n) for n in names[:2]], "more": len(names) > 2}
            self._send(peer, DONE, request, page, FINAL)
        elif type == ERASE:
            del self._sessions[session]
            self._send(peer, DONE, request, {"session": session}, FINAL)
        elif type == HEALTH:
            self._send(peer, DONE, request, HEALTHY, FINAL)
        elif type == DIFF:
            cells = struct.pack("<4f", 0, 0.5, 1, 2)
            done = {"n_layer": 2, "n_slot": 2, "change": cells, "cosine": cells}
            self._send(peer, DONE, request, done, FINAL)
        elif type == TURN:
            self._turns.setdefault(request, FakeTurn(body))
            self._stream(peer, request, 0)
        elif type == REMEMBER:
            self._commit(peer, request, session, 0)
        elif type == RESUME:
            if request in self._turns:
                self._stream(peer, request, body["from"])
            else:
                self._send(peer, ERROR, request, error(202, "no_request", True), FINAL)
        elif type == CHOOSE:
            turn = self._turns[request]
            if turn.choice not in (None, body["candidate"]):
                self._send(peer, ERROR, request, error(204, "exists"))
            else:
                turn.choice = body["candidate"]
                self._end(peer, request, turn)
        elif type == CANCEL and request in self._turns:
            self._send(peer, CANCELLED, request, {"session": session}, FINAL)
        elif type == EXPORT:
            pieces = [self.export[i : i + CHUNK_BYTES] for i in range(0, len(self.export), CHUNK_BYTES)]
            for k, raw in enumerate(pieces):
                if k == self.stop_chunk:
                    return
                self._send(peer, CHUNK, request, {}, sequence=k + self.chunk_from, raw=raw)
            done = {"session": session, "bytes": len(self.export), "chunks": len(pieces)}
            self._send(peer, DONE, request, done, FINAL)
        elif type == IMPORT:
            self._imports[request] = [body, b""]
            self._send(peer, ACCEPTED, request, {"session": session, "credit": 1500})
        elif type == CHUNK:
            wanted, _ = self._imports[request]
            self._imports[request][1] += frames[2]
            self._send(peer, CREDIT, request, {"bytes": len(frames[2])})
            if len(self._imports[request][1]) == wanted["bytes"]:
                name = wanted["session"]
                self._sessions[name] = 1
                self._send(peer, DONE, request, {"session": name, "info": self._info(name)}, FINAL)

    def _stream(self, peer, request, first):
        turn = self._turns[request]
        stored = STORED if turn.journaled else 0
        if not stored:
            price = {"tokens_max": 256, "bytes": 1, "us_expected": 1}
            accepted = {"session": turn.session, "price": price, "position": 0}
            self._send(peer, ACCEPTED, request, accepted)
        for k, answer in enumerate(turn.answers):
            begin = first
            while begin < len(answer):
                end = min(begin + self.cut, len(answer))
                if self.stop_at is not None and end > self.stop_at:
                    return
                text = answer[:end].decode(errors="ignore")
                text = text[len(answer[:begin].decode(errors="ignore")) :]
                body = {"text": text, "ids": list(answer[begin:end]), "candidate": k}
                self._send(peer, TOKEN, request, body, stored, begin)
                begin = end
        if turn.choice is None:
            candidates = [{"finish": "eos", "n_answer": len(a)} for a in turn.answers]
            body = {"session": turn.session, "read_version": 0, "expires_ms": 60000,
                    "candidates": candidates}
            self._send(peer, UNDECIDED, request, body, sequence=len(turn.answers[0]))
        else:
            self._end(peer, request, turn)

    def _end(self, peer, request, turn):
        n = len(turn.answers[turn.choice])
        done = {"session": turn.session, "finish": "eos", "n_query": 1, "n_answer": n,
                "read_version": 0, "candidate": turn.choice}
        if turn.dry:
            self._send(peer, DONE, request, done, FINAL, n)
        elif turn.journaled:
            self._send(peer, DONE, request, {**done, "pending_version": 1}, FINAL | STORED, n)
        else:
            turn.journaled = True
            self._commit(peer, request, turn.session, n, done)

    def _commit(self, peer, request, session, n, done=None):
        version = self._sessions[session] = self._sessions.get(session, 0) + 1
        done = {**(done or {"session": session}), "pending_version": version}
        self._send(peer, DONE, request, done, sequence=n)
        if self.refuse.get(MEMORY):
            body = {"session": session, "version": version - 1, **self.refuse[MEMORY].pop()}
            self._send(peer, MEMORY_FAILED, request, body, FINAL, n)
        else:
            memory = {"session": session, "version": version, "stm_hash": bytes(16),
                      "lag_us": 1, "memory_us": 1}
            self._send(peer, MEMORY, request, memory, FINAL, n)
