"""Whether the suite bites: a man in the middle breaks one rule of the server at a time, and at least
one case must fail. What is broken is taken from the tables of the document; which cases are asked
first, from what a clean run saw."""

import os
import random
import struct
import threading
from multiprocessing.pool import ThreadPool

import msgpack
import zmq

import document
import rxtp
from rxtp import FINAL, HEADER, STORED
from suite import AT_ONCE, run_case

ASKED = 12  # cases that are asked, the likeliest first, before a mutation counts as not noticed
SAMPLE = 10  # mutations of a short run
WAIT_S = 2  # a broken server is not waited for as long as a slow one


class Proxy:
    """Between every peer and the server. `change(message, of_server)` gives the messages that go on
    in its place; a message is [header fields, body, further frames], or bytes where it cannot be
    read."""

    def __init__(self, change):
        self._change = change
        self._context = zmq.Context()
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._pairs = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._new = []
        self._thread.start()

    def between(self, address):
        """Where a peer connects instead. A proxy knows no keys: not for CURVE."""
        with self._lock:
            if address not in self._pairs:
                front = self._context.socket(zmq.ROUTER)
                front.linger = 0
                port = front.bind_to_random_port("tcp://127.0.0.1")
                self._pairs[address] = f"tcp://127.0.0.1:{port}"
                self._new.append((front, address))
                self._stop.send(b"new")
            return self._pairs[address]

    def _run(self):
        stop = self._context.socket(zmq.PAIR)
        stop.connect("inproc://stop")
        poller = zmq.Poller()
        poller.register(stop, zmq.POLLIN)
        fronts, backs = {}, {}
        while True:
            for socket, _ in poller.poll():
                if socket is stop:
                    if stop.recv() == b"stop":
                        stop.close()
                        return
                    with self._lock:
                        for front, address in self._new:
                            fronts[front] = address
                            poller.register(front, zmq.POLLIN)
                        self._new.clear()
                elif socket in fronts:
                    peer, *frames = socket.recv_multipart()
                    key = (socket, peer)
                    if key not in backs:
                        back = self._context.socket(zmq.DEALER)
                        back.linger = 0
                        back.connect(fronts[socket])
                        backs[key], backs[back] = back, key
                        poller.register(back, zmq.POLLIN)
                    for out in self._changed(frames, False):
                        backs[key].send_multipart(out)
                else:
                    front, peer = backs[socket]
                    for out in self._changed(socket.recv_multipart(), True):
                        front.send_multipart([peer, *out])

    def _changed(self, frames, of_server):
        try:
            header = list(HEADER.unpack(frames[0]))
            body = msgpack.unpackb(frames[1])
        except (struct.error, ValueError, IndexError, msgpack.UnpackException):
            return [frames]
        if not isinstance(body, dict) or header[6] != len(frames[1]):
            return [frames]
        messages = self._change([header, body, frames[2:]], of_server)
        if len(messages) == 1 and messages[0] is None:
            return [frames]
        return [self._frames(*m) for m in messages]

    def _frames(self, header, body, more):
        data = msgpack.packb(body)
        return [HEADER.pack(*header[:6], len(data)), data, *more]

    def close(self):
        self._stop.send(b"stop")
        self._thread.join()
        self._context.destroy(linger=0)


# Who is asked first, where many cases touch a thing and few look at it.
FIRST = {
    "MEMORY: another hash": "sessions.get_reports_the_last_turn",
    "request ids are forgotten": "retry.a_repeat_is_never_a_second_turn",
    "HELLO: credit is not looked at": "flow.nothing_is_sent_without_credit",
    "CREDIT is ignored once it is there": "flow.nothing_is_sent_without_credit",
    "TURN: max_tokens is not looked at": "turns.a_length_is_an_end",
    "DONE: read_version + 1": "turns.a_stream_from_accepted_to_memory",
    "DONE: n_query + 1": "sessions.get_reports_the_last_turn",
}

AS_IT_IS = [None]
TYPE, FLAGS, ID, SEQUENCE = 2, 3, 4, 5
TOLD = {v: k for k, v in document.SERVER_TYPES.items()}
ASKED_FOR = {v: k for k, v in document.CLIENT_TYPES.items()}


def of_server(name, change):
    """A mutation of the server's messages of a type."""
    number = document.SERVER_TYPES[name]

    def mutate(m, server):
        return change(m) if server and m[0][TYPE] == number else AS_IT_IS

    return mutate


def of_client(name, change):
    number = document.CLIENT_TYPES[name]

    def mutate(m, server):
        return change(m) if not server and m[0][TYPE] == number else AS_IT_IS

    return mutate


def edit(header=None, body=None):
    def change(m):
        h, b, more = list(m[0]), dict(m[1]), m[2]
        if header:
            header(h)
        if body:
            body(b)
        return [[h, b, more]]

    return change


def without(key):
    return edit(body=lambda b: b.pop(key, None))


def putting(place, value):
    """Header field `place` becomes value(old)."""
    return edit(header=lambda h: h.__setitem__(place, value(h[place])))


def other_code(code):
    """This error becomes one that nobody asked for."""
    def change(b):
        if b.get("code") == code:
            wrong = 410 if code != 410 else 106
            row = document.ERRORS[wrong]
            b |= {"code": row.code, "name": row.name}
            if "retryable" in b:
                b |= {"retryable": row.retryable, "retry_after_ms": 0}

    def mutate(m, server):
        return edit(body=change)(m) if server and m[1].get("code") == code else AS_IT_IS

    return mutate


def with_retryable(m, server):
    if server and "retryable" in m[1]:
        return edit(body=lambda b: b.__setitem__("retryable", not b["retryable"]))(m)
    return AS_IT_IS


def fresh_ids(m, server):
    """A server that does not know a request id again. Answers find their way back."""
    seen, back = fresh_ids.seen, fresh_ids.back
    h = m[0]
    if server:
        return putting(ID, lambda i: back.get(i, i))(m)
    if ASKED_FOR.get(h[TYPE]) in ("TURN", "REMEMBER", "RESET", "REWIND") and any(h[ID]):
        if h[ID] in seen:
            new = os.urandom(16)
            back[new] = h[ID]
            return putting(ID, lambda _: new)(m)
        seen.add(h[ID])
    return AS_IT_IS


fresh_ids.seen, fresh_ids.back = set(), {}


def leaking(m, server):
    """A LIST that names a session of somebody else."""
    if server and "sessions" in m[1] and "more" in m[1]:
        other = {k: t() if t is not bool else False for k, t in rxtp.INFO.items()}
        return edit(body=lambda b: b.__setitem__("sessions", b["sessions"] + [other]))(m)
    return AS_IT_IS


def twice(m):
    return [m, m]


def bend(key, change):
    def body(b):
        if key in b:
            b[key] = change(b[key])

    return edit(body=body)


def mutations(codes):
    """(name, function, what it touches): a message of the server, a (message, key) of either side, a
    (message, None) of the client, a code, or "stored".
    codes: those that a proxy can see; behind CURVE he sees none."""
    for name in document.SERVER_TYPES:
        if name == "PING":
            continue  # which a server need not send
        yield f"{name} is never sent", of_server(name, lambda m: []), name
        if name not in ("PONG", "DRAINING", "CREDIT"):  # twice is once, or harmless
            yield f"{name} is sent twice", of_server(name, twice), name
    for name in ("DONE", "MEMORY", "MEMORY_FAILED", "CANCELLED", "ERROR"):
        yield f"{name} is not FINAL", of_server(name, putting(FLAGS, lambda f: f & ~FINAL)), name
    for name in ("ACCEPTED", "TOKEN", "DONE", "CHUNK", "UNDECIDED"):
        what = "DONE TURN" if name == "DONE" else name
        yield f"{name} is FINAL", of_server(name, putting(FLAGS, lambda f: f | FINAL)), what
    yield "TOKEN is never STORED", of_server("TOKEN", putting(FLAGS, lambda f: f & ~STORED)), "stored"
    yield "TOKEN is always STORED", of_server("TOKEN", putting(FLAGS, lambda f: f | STORED)), "TOKEN"
    for name in ("TOKEN", "DONE", "MEMORY", "MEMORY_FAILED", "CHUNK", "PONG", "ACCEPTED", "UNDECIDED"):
        yield f"{name}: sequence + 1", of_server(name, putting(SEQUENCE, lambda s: s + 1)), name
    yield "TOKEN: sequence always 0", of_server("TOKEN", putting(SEQUENCE, lambda s: 0)), "TOKEN"
    yield "TOKEN: ids are lost", of_server("TOKEN", bend("ids", lambda ids: ids[:-1] or ids * 2)), "TOKEN"
    yield "an answer that differs when it comes again", of_server(
        "TOKEN", lambda m: edit(body=lambda b: b.__setitem__("ids", [1] * len(b["ids"])))(m)
        if m[0][FLAGS] & STORED else AS_IT_IS), "stored"
    for name, keys in rxtp.BODIES.items():
        for key in keys:
            yield f"{name} without {key}", of_server(name.split()[0], without(key)), (name, key)
    for key in ("pending_version", "read_version", "n_answer", "n_query"):
        yield f"DONE: {key} + 1", of_server("DONE", bend(key, lambda v: v + 1)), "DONE TURN"
    yield "MEMORY: version + 1", of_server("MEMORY", bend("version", lambda v: v + 1)), "MEMORY"
    yield "MEMORY: another hash", of_server("MEMORY", bend("stm_hash", lambda v: v[::-1])), "MEMORY"
    for code in sorted(codes):
        yield f"error {code} is another one", other_code(code), code
    yield "retryable the other way round", with_retryable, "ERROR"
    yield "an ERROR names no key", of_server("ERROR", without("key")), "ERROR"
    yield "request ids are forgotten", fresh_ids, ("TURN", None)
    yield "LIST leaks a session", leaking, ("LIST", "after")
    for name in document.CLIENT_TYPES:
        yield f"{name} is not heard", of_client(name, lambda m: []), (name, None)
        for key in document.keys_of(name):
            yield f"{name}: {key} is not looked at", of_client(name, without(key)), (name, key)
    yield "unknown keys are ignored", lambda m, server: (
        AS_IT_IS if server else edit(body=lambda b: b.pop("colour", None))(m)), 104
    yield "RESUME begins elsewhere", of_client("RESUME", bend("from", lambda n: n + 1)), ("RESUME", "from")
    yield "CREDIT is ignored once it is there", of_client("HELLO", bend("credit", lambda c: 1 << 20)), (
        "HELLO", "credit")


def touched(seen):
    """What a clean run of a case went through, as mutations name it."""
    things = set(seen.codes) | set(seen.came)
    things |= set(seen.sent)
    things |= {(n, key) for n in seen.came for key in rxtp.BODIES.get(n, ())}
    if seen.stored:
        things.add("stored")
    return things


def run_mutations(seen_by):
    """Breaks rules; True if the suite noticed each. seen_by: (case, what went over the wire) of the
    cases that passed. A sample, drawn with RXT_SEED; RXT_FULL=1 takes all."""
    clean = [(c, touched(seen)) for c, seen in seen_by if "tenants" not in c.options]
    codes = {code for _, things in clean for code in things if isinstance(code, int)}
    todo = list(mutations(codes))
    if os.environ.get("RXT_FULL") != "1":
        todo = random.Random(int(os.environ.get("RXT_SEED", "1"))).sample(todo, SAMPLE)
    rxtp.WAIT_S = min(WAIT_S, rxtp.WAIT_S)
    stands = {}  # cases that pass with a man in the middle who changes nothing
    with ThreadPool(AT_ONCE) as pool:
        found = pool.map(lambda m: noticed(*m, clean, stands), todo, chunksize=1)
    unnoticed = 0
    for (name, _, _), was_noticed in zip(todo, found):
        if not was_noticed:
            unnoticed += 1
            print(f"FAILED: nobody noticed: {name}", flush=True)
    print(f"{len(todo) - unnoticed} of {len(todo)} mutations noticed")
    return unnoticed == 0


def noticed(name, change, what, clean, stands):
    likely = [x for x in clean if what in x[1]]
    likely.sort(key=lambda x: (x[0].name != FIRST.get(name), len(x[1])))
    asked = 0
    for c, _ in likely:
        if c.name not in stands:
            stands[c.name] = passes(c, lambda m, server: AS_IT_IS) is None
        if not stands[c.name]:
            continue  # he never hangs up, so that a case on lost connections fails
        said = passes(c, change)
        if said is not None:
            print(f"noticed: {name}: by {c.name}: {said[:90]}", flush=True)
            return True
        asked += 1
        if asked == ASKED:
            break
    return False


def passes(c, change):
    """What the case says of a server so changed; None if nothing."""
    proxy = Proxy(change)
    try:
        run_case(c, proxy.between)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    finally:
        proxy.close()
    return None
