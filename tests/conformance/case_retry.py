"""Request ids: repeats, RESUME, lost connections, restarts. Section 8 of PROTOCOL.md."""

import os

from rxtp import LONG, Turn, check
from suite import case

DUPLICATE = "duplicate request id"
KILL = "kill -9, power loss at any point"
STORY = {"session": "s", "query": "tell me a story", **LONG}


def until_tokens(peer, id, n):
    """Reads until n tokens have come; their number."""
    have = 0
    while have < n:
        m = peer.expect_any(id)
        check(m.name in ("ACCEPTED", "TOKEN"), m.name, m.body)
        have += len(m.body["ids"]) if m.name == "TOKEN" else 0
    return have


def same_answer(a, b):
    check(a.ids == b.ids and a.text == b.text, "another answer:", a.text, "|", b.text)
    check(a.done["finish"] == b.done["finish"], a.done, b.done)
    check(a.done["pending_version"] == b.done["pending_version"], a.done, b.done)


@case(rows=[DUPLICATE])
def a_repeat_is_never_a_second_turn(s):
    peer = s.peer()
    peer.open("s")
    first = peer.turn("s", "hi, i'm Anna").remembered()
    for other in (peer, s.peer()):
        again = other.turn("s", "hi, i'm Anna", id=first.id)
        same_answer(first, again)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 1, "a second turn")
    running = peer.send("TURN", STORY)
    until_tokens(peer, running, 1)
    twice = s.peer()
    twice.send("TURN", STORY, id=running)
    joined = Turn(twice.finish(running)).remembered()
    check(joined.memory["version"] == 2, "joined")
    check(Turn(peer.finish(running)).error["code"] == 211, "its stream moved")
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 2, "a second turn")


@case(rows=[DUPLICATE])
def a_late_repeat_is_answered_from_the_journal(s):
    peer = s.peer()
    peer.open("s")
    first = peer.turn("s", "hi, i'm Anna").remembered()
    later = peer.turn("s", "tell me a joke").remembered()
    s.stop()
    s.start()
    peer = s.peer()
    for turn in (first, later):
        again = s.peer().turn("s", "whatever", id=turn.id)
        same_answer(turn, again)
        check(again.stored and again.names[0] == "TOKEN" and again.last.name == "DONE", again.names)
        check(all(m.stored for m in again.messages), "STORED")
        check(again.done["read_version"] == turn.done["read_version"], again.done)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 2, "a second turn")


@case(rows=[DUPLICATE], grace_ms=1)
def an_id_older_than_the_window(s):
    peer = s.peer()
    peer.open("s")
    first = peer.turn("s", "hi").remembered()
    window = peer.welcome["window"]
    for _ in range(window // 16):
        ids = [peer.send("REMEMBER", {"session": "s", "ids": [5, 6]}) for _ in range(16)]
        for id in ids:
            check(peer.finish(id)[-1].name == "MEMORY", "REMEMBER")
    peer.until_forgotten("s", first.id)
    again = peer.turn("s", "hi", id=first.id)
    check(again.error and again.error["code"] == 207, "an old id gave", again.names, again.error)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == window + 1, "a second turn")


@case()
def resume_from_a_token(s):
    peer = s.peer()
    peer.open("s")
    reference = peer.turn("s", STORY["query"], **LONG, commit="never")
    id = peer.send("TURN", STORY)
    have = until_tokens(peer, id, 5)
    for first in (0, 3, have):
        other = s.peer()
        other.adopt(id, "TURN", STORY, base=first)
        other.send("RESUME", {"session": "s", "from": first}, id=id)
        rest = Turn(other.finish(id)).remembered()
        check(rest.names[0] == "ACCEPTED", rest.names)
        check(rest.ids == reference.ids[first:], "from", first, rest.ids, reference.ids)
        check(reference.text.endswith(rest.text), "text")
    check(Turn(peer.finish(id)).error["code"] == 211, "moved")
    peer.refused("RESUME", {"session": "s"}, 202)
    peer.refused("RESUME", {"session": "nobody"}, 202)


@case(heartbeat_ms=100)
def a_lost_connection(s):
    """on_disconnect keep: it goes on, and can be resumed; cancel: it ends."""
    peer = s.peer()
    peer.open("s")
    peer.open("t")
    leaver = s.peer()
    keep = leaver.send("TURN", STORY)
    drop = leaver.send("TURN", {**STORY, "session": "t", "on_disconnect": "cancel"})
    behind = [leaver.send("TURN", {**STORY, "session": "t", "on_disconnect": "cancel"})
              for _ in range(20)]
    until_tokens(leaver, keep, 1)
    leaver.close()
    for _ in range(20):  # when it notices is its affair
        heir = s.peer()
        heir.adopt(keep, "TURN", STORY)
        heir.send("RESUME", {"session": "s"}, id=keep)
        kept = Turn(heir.finish(keep)).remembered()
        check(kept.memory["version"] == 1, kept.memory)
    info = peer.turn("t", "hi").remembered()
    check(info.memory["version"] <= len(behind), "nothing was cancelled", info.memory)
    heir.adopt(drop, "TURN", STORY)


@case()
def a_new_connection_needs_a_hello(s):
    """After a restart the server knows no connection, and every turn that reported DONE."""
    peer = s.peer()
    peer.open("s")
    turn = peer.turn("s", "hi, i'm Anna").remembered()
    s.stop()
    s.start()
    peer.send("PING")
    peer.error(bytes(16), 110)
    peer.hello()
    peer.refused("RESUME", {"session": "s"}, 202, id=turn.id)
    again = peer.turn("s", "hi, i'm Anna", id=turn.id)
    same_answer(turn, again)
    check(again.stored, "not from the journal")


@case(rows=[KILL])
def killed_and_started_again(s):
    """kill -9 at any moment: what reported DONE is in the memory, bit by bit; what did not runs
    when it is sent again, and once."""
    queries = [f"my number is {k}" for k in range(12)]
    peer = s.peer()
    peer.open("straight")
    want = [peer.turn("straight", q).remembered().memory["stm_hash"] for q in queries]
    peer.open("s")
    for k, query in enumerate(queries):
        id = os.urandom(16)
        body = {"session": "s", "query": query, "max_tokens": 12}
        peer.send("TURN", body, id=id)
        names = []
        while names.count("TOKEN") < k % 4 or (k % 4 == 3 and "DONE" not in names):
            names.append(peer.expect_any(id).name)
        s.kill()
        s.start()
        peer = s.peer()
        turn = peer.turn("s", query, id=id)
        check(turn.done["pending_version"] == k + 1, turn.done)
        info = peer.call("GET", {"session": "s"})["info"]
        if not turn.stored:
            turn.remembered()
        for _ in range(100):
            if info["version"] == k + 1:
                break
            info = peer.call("GET", {"session": "s"})["info"]
        check(info["version"] == k + 1 and info["stm_hash"] == want[k], "another memory", k, info)
