"""Credit, and what a server that is full says: section 7 of PROTOCOL.md."""

from rxtp import LONG, NO_ID, Turn, check
from suite import case

FULL = "full queue, no admission"
STORY = {"session": "s", "query": "tell me a story", **LONG}


def received(peer):
    """What TOKENs and CHUNKs have cost: 32 + frames 1 and 2, that is all bytes of the message."""
    return sum(len(f) for f in peer.raw_frames if f[5] in (0x83, 0x1B))


@case()
def nothing_is_sent_without_credit(s):
    for credit in (1, 200, 500):
        peer = s.peer(hello={"credit": credit}.items())
        name = f"s{credit}"
        peer.open(name)
        id = peer.send("TURN", {**STORY, "session": name})
        watcher = s.peer()
        while watcher.call("GET", {"session": name})["info"]["version"] == 0:
            pass  # answered and remembered although nobody reads
        peer.alive()
        tokens = [f for f in peer.raw_frames if f[5] == 0x83]
        check(received(peer) - len(tokens[-1]) < credit, "sent", received(peer), "for", credit)
        names = [m.name for m in peer.streams[id].came]
        check("DONE" not in names, "DONE overtook its TOKENs", names)
        before = received(peer)
        peer.send("CREDIT", {"bytes": 100})
        peer.alive()
        check(received(peer) > before or credit > 100, "CREDIT opened nothing")
        peer.send("CREDIT", {"bytes": 1 << 20})
        turn = Turn(peer.finish(id)).remembered()
        reference = watcher.turn(name, "x", commit="never")
        check(reference.done and len(turn.ids) == turn.done["n_answer"], turn.done)


@case()
def hello_begins_the_credit_anew(s):
    peer = s.peer(hello={"credit": 1}.items())
    peer.open("s")
    id = peer.send("TURN", STORY)
    peer.expect("ACCEPTED", id)
    peer.expect("TOKEN", id)
    peer.hello(credit=1 << 20)
    Turn(peer.finish(id)).remembered()


@case(stall_ms=200)
def a_client_that_reads_nothing_is_detached(s):
    peer = s.peer(hello={"credit": 1}.items())
    peer.open("s")
    id = peer.send("TURN", STORY)
    while (m := peer.expect_any(id)).name != "ERROR":
        check(m.name in ("ACCEPTED", "TOKEN"), m.name)
    check(m.body["code"] == 212 and not m.final, "the request goes on", m.body)
    have = sum(len(t.body["ids"]) for t in peer.streams[id].came if t.name == "TOKEN")
    peer.send("CREDIT", {"bytes": 1 << 20})
    head = [i for t in peer.streams[id].came if t.name == "TOKEN" for i in t.body["ids"]]
    peer.adopt(id, "TURN", STORY, base=have)
    peer.send("RESUME", {"session": "s", "from": have}, id=id)
    rest = Turn(peer.finish(id)).remembered()
    check(len(head + rest.ids) == rest.done["n_answer"], "tokens were lost")


@case(rows=[FULL], max_inflight=2)
def requests_of_a_connection(s):
    peer = s.peer()
    check(peer.welcome["max_inflight"] == 2, peer.welcome)
    peer.open("s")
    busy = peer.keep_busy("s", 2)
    m = peer.refused("GET", {"session": "s"}, 305)
    check(m.body["retryable"], m.body)
    s.peer().call("LIST", {})
    peer.let_go("s", busy)
    peer.call("GET", {"session": "s"})


@case(rows=[FULL], max_queue=3)
def a_full_queue(s):
    peer = s.peer()
    peer.open("s")
    ids = [peer.send("TURN", STORY) for _ in range(12)]
    refused = 0
    for id in ids:
        m = peer.expect_any(id)
        if m.name == "ERROR":
            check(m.body["code"] == 301 and m.body["retryable"], m.body)
            check(m.body["retry_after_ms"] > 0, "how long?", m.body)
            refused += 1
    check(1 <= refused <= 10, refused, "of 12 refused")
    for id in reversed(ids):
        peer.send("CANCEL", {"session": "s"}, id=id)
    for id in ids:
        peer.finish(id)
    peer.turn("s", "hi").remembered()


@case(rows=[FULL], own=True)
def no_room_for_one_more(make):
    """Admission is by bytes, and exact: with room for one turn, others wait or hear busy; a server
    that has not room for one does not start."""
    probe = make().start()
    peer = probe.peer()
    peer.open("s")
    price = peer.turn("s", "hi", max_tokens=0).accepted["price"]["bytes"]
    session = peer.welcome["session_bytes"]
    probe.stop()
    code, said = make(max_bytes=session // 2).refuses_to_start()
    check(code > 0 and "max_bytes" in said, said)
    s = make(max_bytes=price + 3 * session).start()
    peer = s.peer()
    ids = []
    for k in range(6):
        peer.open(f"s{k}")
        ids.append(peer.send("TURN", {**STORY, "session": f"s{k}"}))
    turns = [Turn(peer.finish(id)) for id in ids]
    for turn in turns:
        check(turn.memory or (turn.error["code"] == 301 and turn.error["retry_after_ms"]), turn.names)
    check(any(t.memory for t in turns), "nobody was admitted")
    s.stop()


@case()
def credit_is_of_the_connection(s):
    """A slow reader holds up nobody else."""
    slow = s.peer(hello={"credit": 1}.items())
    slow.open("s")
    id = slow.send("TURN", STORY)
    slow.expect("ACCEPTED", id)
    fast = s.peer()
    fast.open("t")
    fast.turn("t", "hi").remembered()
    slow.send("CREDIT", {"bytes": 1 << 20})
    Turn(slow.finish(id)).remembered()
    slow.send("CREDIT", {"bytes": slow.welcome["credit_max"]}, id=NO_ID)
    slow.error(NO_ID, 106, "bytes")
