"""CURVE: a key decides the tenant, and no tenant sees another."""

import os

import zmq

from case_bulk import export, import_, refused
from rxtp import NO_ID, check
from suite import case

OTHER = "another tenant's session"
MANY = [f"t{k}" for k in range(100)]


def canary(tenant):
    return f"canary.{tenant}."


@case(rows=[OTHER], tenants=["a", "b"])
def another_tenant_is_nobody(s):
    a, b = s.peer(tenant="a"), s.peer(tenant="b")
    check(a.welcome["tenant"] == "a" and b.welcome["tenant"] == "b", "tenants")
    state = s.peer("state", tenant="b")
    a.open("mine")
    turn = a.turn("mine", "hi, i'm Anna").remembered()
    unknown = b.refused("GET", {"session": "nobody"}, 201).body
    for name, more in (
        ("TURN", {"query": "hi"}), ("GET", {}), ("FORK", {"to": "x"}), ("REWIND", {"version": 0}),
        ("RESET", {}), ("ERASE", {}), ("REMEMBER", {"ids": [1]}),
    ):
        m = b.refused(name, {"session": "mine", **more}, 201).body
        check({**m, "detail": 0} == {**unknown, "detail": 0}, "not as an unknown one", m)
        same = m["detail"].replace("mine", "nobody") == unknown["detail"]
        check(name != "GET" or same, "another sentence", m, unknown)
    b.refused("OPEN", {"session": "x", "from": "mine"}, 201)
    b.refused("RESUME", {"session": "mine"}, 202, id=turn.id)
    b.refused("CHOOSE", {"session": "mine", "candidate": 0}, 202, id=turn.id)
    state.refused("EXPORT", {"session": "mine"}, 201)
    state.refused("DIFF", {"session": "mine", "version": 0}, 201)
    check(b.call("LIST", {})["sessions"] == [], "it is listed")
    b.open("mine")  # the same name is another session
    check(b.call("GET", {"session": "mine"})["info"]["version"] == 0, "one session of two tenants")
    other = b.turn("mine", "hi", id=turn.id).remembered()
    check(not other.stored, "answered with the journal of another tenant")
    long = a.keep_busy("mine")
    b.send("CANCEL", {"session": "mine"}, id=long[0])
    b.alive()
    first, *_ = a.let_go("mine", long)
    check(a.call("GET", {"session": "mine"})["info"]["version"] >= 1, first.names)


@case(tenants=["a"])
def who_has_no_key_is_not_heard(s):
    stranger = s.peer(hello=None)
    stranger.send("HELLO", {"versions": [1]}, id=NO_ID)
    s.keys["stranger"] = zmq.curve_keypair()
    unknown = s.peer(tenant="stranger", hello=None)
    unknown.send("HELLO", {"versions": [1]}, id=NO_ID)
    s.peer(tenant="a").open("s")
    for peer in (stranger, unknown):
        check(peer.receive(0.3) is None, "a stranger was answered")
    del s.keys["stranger"]


@case(tenants=["a", "b"], max_tenant_connections=2)
def a_tenant_has_its_share_of_connections(s):
    """It is refused beyond; the others notice nothing."""
    first, _ = s.peer(tenant="a"), s.peer(tenant="a")
    third = s.peer(tenant="a", hello=None)
    third.send("HELLO", {"versions": [1]}, id=NO_ID)
    check(third.error(NO_ID, 304).body["retryable"], "tenant_limit")
    s.peer(tenant="b").open("s")
    first.open("s")


@case(tenants=["a", "b"], max_bulk=2)
def a_tenant_has_its_share_of_bulk(s):
    """One that holds all that it may of EXPORT and IMPORT, on two connections, keeps no other from
    its own."""
    a, again, b = (s.peer("state", tenant=t) for t in "aab")
    s.peer(tenant="b").open("s")
    held = a.send("IMPORT", {"session": "x", "bytes": 10})
    a.expect("ACCEPTED", held)
    for peer in (a, again):
        for name, more in (("IMPORT", {"bytes": 10}), ("EXPORT", {})):
            m = peer.refused(name, {"session": "y", **more}, 301)
            check(m.body["retryable"] and m.body["retry_after_ms"] > 0, m.body)
    check(export(b, "s"), "EXPORT of another")
    a.send("CANCEL", {"session": "x"}, id=held)
    a.expect("CANCELLED", held)
    again.refused("EXPORT", {"session": "y"}, 201)


@case(own=True)
def a_tenant_has_its_share_of_sessions(make):
    """Each way to make one is refused beyond; ERASE makes room; RELOAD brings another limit."""
    s = make(tenants=["a", "b"])
    s.configure(max_tenant_sessions=2)
    s.start()
    a, b, state = s.peer(tenant="a"), s.peer(tenant="b"), s.peer("state", tenant="a")
    a.open("one")
    a.turn("one", "hi, i'm Anna").remembered()
    data = export(state, "one")
    a.open("two")
    a.open("one")  # it is there: nothing new
    detail = a.refused("OPEN", {"session": "three"}, 209).body["detail"]
    check("2 sessions" in detail, detail)
    a.refused("OPEN", {"session": "three", "from": "one"}, 209)
    a.refused("FORK", {"session": "one", "to": "three"}, 209)
    check(import_(state, "three", data).body["code"] == 209, "IMPORT")
    long = a.keep_busy("one")
    busy = {"session": "one", "query": "hi", "on_busy": "fork", "fork_to": "three"}
    a.refused("TURN", busy, 209)
    a.let_go("one", long)
    check([i["session"] for i in a.call("LIST", {})["sessions"]] == ["one", "two"], "LIST")
    b.open("one")
    b.open("two")
    a.call("ERASE", {"session": "two"})
    a.call("FORK", {"session": "one", "to": "three"})
    a.refused("OPEN", {"session": "four"}, 209)
    s.configure(max_tenant_sessions=3, max_tenant_bytes=1)  # not one turn has room: both stay
    s.peer("admin").call("RELOAD", {})
    a.refused("OPEN", {"session": "four"}, 209)
    s.configure(max_tenant_sessions=3)
    s.peer("admin").call("RELOAD", {})
    a.open("four")
    a.refused("OPEN", {"session": "five"}, 209)
    s.stop()


@case(rows=[OTHER], tenants=MANY, sync="normal")
def canaries(s):
    """Each tenant puts its own string wherever one can be put: names, text, answers, what it calls
    itself, what it sends wrongly. No frame, export, listing, log or metric of another one ever holds
    it, and the log and the metrics hold none at all."""
    peers = {}
    for t in MANY:
        hello = {"client": canary(t)}.items()
        peers[t] = s.peer(tenant=t, hello=hello), s.peer("state", tenant=t, hello=hello)
    exports, ids = {}, {t: os.urandom(16) for t in MANY}
    for t, (turn, state) in peers.items():
        name = canary(t)
        turn.open(name)
        turn.turn(name, f"my secret is {name}", id=ids[t], max_tokens=3).remembered()
        turn.call("FORK", {"session": name, "to": f"{name}.fork"})
        turn.finish(turn.send("REMEMBER", {"session": name, "query": name, "answer": name}))
        turn.finish(turn.send("TURN", {"session": name, "query": name * 200}))
        turn.refused("TURN", {"session": name, "query": "hi", name: 1}, 104)
        turn.refused("GET", {"session": f"{name}.nobody"}, 201)
        exports[t] = export(state, name)
        check(import_(state, f"{name}.copy", exports[t]).name == "DONE", "IMPORT")
        refused(state, f"{name}.bad", exports[t][:-1] + bytes([exports[t][-1] ^ 1]), 405)
        state.call("DIFF", {"session": name, "version": 0})
    admin = s.peer("admin")
    metrics = admin.call("STATS", {})["metrics"]
    for t, (turn, state) in peers.items():
        other = MANY[MANY.index(t) - 1]
        name = canary(other)
        turn.refused("GET", {"session": name}, 201)
        turn.refused("RESUME", {"session": name}, 202, id=ids[other])
        turn.refused("OPEN", {"session": "x", "from": name}, 201)
        names = [i["session"] for i in turn.call("LIST", {"limit": 256})["sessions"]]
        check(names == [canary(t), f"{canary(t)}.copy", f"{canary(t)}.fork"], t, "sees", names)
    for t, own in peers.items():
        # What a refusal says of a name is what this tenant has asked for itself.
        everything = b"".join(f for p in own for f in p.raw_frames if b"there is no session" not in f)
        check(canary(t).encode() in everything, "this test looks in the wrong place")
        for other in MANY:
            word = canary(other).encode()
            check(other == t or word not in everything, t, "saw", other)
            check(other == t or word not in exports[t], other, "is in the export of", t)
        check(canary(t) not in s.read_log(), "in the log:", t)
        check(canary(t) not in metrics, "in the metrics:", t)
