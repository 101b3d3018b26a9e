"""TURN: its stream, its parameters, its deadlines, candidates and CHOOSE."""

import os

from rxtp import LONG, Turn, check
from suite import case


@case()
def a_stream_from_accepted_to_memory(s):
    peer = s.peer()
    peer.open("s")
    turn = peer.turn("s", "hi, i'm Anna").remembered()
    check(turn.names[0] == "ACCEPTED" and turn.names[-2:] == ["DONE", "MEMORY"], turn.names)
    check("TOKEN" in turn.names and len(turn.ids) == turn.done["n_answer"] <= 12, turn.done)
    price = turn.accepted["price"]
    check(price["tokens_max"] >= turn.done["n_query"] + turn.done["n_answer"], "price", price)
    check(price["bytes"] > 0 and turn.accepted["position"] == 0, turn.accepted)
    check(turn.done["finish"] in ("eos", "length") and turn.done["read_version"] == 0, turn.done)
    check(turn.done["pending_version"] == turn.memory["version"] == 1, turn.memory)
    check(turn.done["session"] == turn.accepted["session"] == turn.memory["session"] == "s", "names")
    usage = turn.done["usage"]
    check(usage["queue_us"] <= usage["first_token_us"] <= usage["answer_us"], usage)
    longer = peer.turn("s", "tell me a joke").remembered()
    check(longer.done["read_version"] == 1, "the second turn reads the memory of the first")
    check(all(m.sequence == turn.done["n_answer"] for m in turn.messages[-2:]), "sequence")


@case()
def a_length_is_an_end(s):
    peer = s.peer()
    peer.open("s")
    for n in (1, 3):
        turn = peer.turn("s", "tell me a story", max_tokens=n).remembered()
        check(turn.done["finish"] == "length" and turn.done["n_answer"] == n, turn.done)
    limit = peer.welcome["max_seq_len"]
    whole = peer.turn("s", "x", max_tokens=0, temperature=2.0, seed=3)
    check(whole.done["n_query"] + whole.done["n_answer"] <= limit, "beyond max_seq_len", whole.done)


@case()
def sampling(s):
    peer = s.peer()
    for name in "abcd":
        peer.open(name)
    greedy = [peer.turn(n, "tell me a story", commit="never").ids for n in "ab"]
    check(greedy[0] == greedy[1], "greedy answers differ")
    hot = [peer.turn("a", "tell me a story", commit="never", temperature=1.2, seed=k).ids
           for k in (1, 1, 2, 3)]
    check(hot[0] == hot[1], "the same seed, another answer")
    check(len({tuple(h) for h in hot}) > 1, "seeds change nothing")
    one = peer.turn("a", "tell me a story", commit="never", temperature=1.2, seed=1, top_k=1).ids
    check(one == greedy[0], "top_k 1 is greedy")
    narrow = peer.turn("a", "tell me a story", commit="never", temperature=1.2, seed=1, top_p=1e-6)
    check(narrow.ids == greedy[0], "a narrow top_p is greedy")


@case()
def a_dry_run_leaves_nothing(s):
    peer = s.peer()
    peer.open("s")
    before = peer.call("GET", {"session": "s"})
    turn = peer.turn("s", "hi, i'm Anna", commit="never")
    check(turn.names[-1] == "DONE" and turn.last.final and not turn.memory, turn.names)
    after = peer.call("GET", {"session": "s"})
    check(after["info"]["version"] == 0 and after["last_ids"] == before["last_ids"], after)
    check(after["info"]["stm_hash"] == before["info"]["stm_hash"], "the memory changed")


@case()
def blocks_that_the_model_does_not_have(s):
    """The bundled model has no tokens for tools and long thoughts."""
    peer = s.peer()
    peer.open("s")
    peer.refused("TURN", {"session": "s", "tool_result": "42"}, 210)
    peer.refused("TURN", {"session": "s", "query": "x", "internal": "be brief"}, 210)
    peer.refused("TURN", {"session": "s", "query": "x", "thinking": "extended"}, 210)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 0, "something was remembered")


@case()
def versions_that_a_turn_asks_for(s):
    peer = s.peer()
    peer.open("s")
    peer.refused("TURN", {"session": "s", "query": "x", "if_version": 1}, 205)
    peer.refused("TURN", {"session": "s", "query": "x", "min_version": 1}, 205)
    peer.turn("s", "hi", if_version=0, min_version=0).remembered()
    peer.refused("TURN", {"session": "s", "query": "x", "if_version": 0}, 205)
    peer.turn("s", "hi", if_version=1, min_version=1).remembered()
    # Read your writes: a version that is on its way is waited for.
    first = peer.send("TURN", {"session": "s", "query": "hi", "max_tokens": 12})
    done = None
    while not done:
        m = peer.expect_any(first)
        done = m if m.name == "DONE" else None
    wanted = done.body["pending_version"]
    turn = peer.turn("s", "what is my name?", min_version=wanted)
    check(turn.done["read_version"] >= wanted, turn.done)


@case()
def what_a_refusal_says_is_utf8(s):
    """Also where a long name had to be cut."""
    peer = s.peer()
    name = "a" + "é" * 63
    peer.open(name)
    long = peer.keep_busy(name)
    m = peer.refused("TURN", {"session": name, "query": "x", "on_busy": "reject"}, 301)
    check("aé" in m.body["detail"], m.body)
    peer.let_go(name, long)


@case()
def a_turn_that_finds_the_session_busy(s):
    peer = s.peer()
    peer.open("s")
    busy = peer.keep_busy("s")
    m = peer.refused("TURN", {"session": "s", "query": "x", "on_busy": "reject"}, 301)
    check(m.body["retryable"], m.body)
    peer.refused("REMEMBER", {"session": "s", "ids": [1], "on_busy": "reject"}, 301)
    body = {"session": "s", "query": "x", "on_busy": "fork", "fork_to": "side", "max_tokens": 4}
    fork = Turn(peer.finish(peer.send("TURN", body))).remembered()
    for m in (fork.accepted, fork.done, fork.memory):
        check(m["session"] == "side", m)
    first, *_ = peer.let_go("s", busy)
    check(not first.memory or first.memory["version"] == 1, "the order of turns", first.memory)
    check(peer.call("GET", {"session": "side"})["info"]["origin"] == "s", "no fork")
    idle = peer.turn("side", "x", on_busy="fork", fork_to="unused", max_tokens=4)
    check(idle.accepted["session"] == "side", "an idle session was forked")
    peer.refused("GET", {"session": "unused"}, 201)


@case()
def a_turn_that_finds_the_memory_stale(s):
    """Right after DONE the memory of the turn is not made yet: seen at least once in some tries."""
    peer = s.peer()
    peer.open("s")
    seen = set()
    for k in range(60):
        id = peer.send("TURN", {"session": "s", "query": "x " * 60, "max_tokens": 2})
        while peer.expect_any(id).name != "DONE":
            pass
        how = ("reject", "proceed", "wait")[k % 3]
        body = {"session": "s", "query": "y", "max_tokens": 2, "on_stale": how}
        turn = Turn(peer.finish(peer.send("TURN", body)))
        first = Turn(peer.finish(id))
        pending = first.done["pending_version"]
        if turn.error:
            check(how == "reject" and turn.error["code"] == 205, turn.error)
            seen.add("reject")
        elif turn.done["read_version"] < pending:
            check(how == "proceed" and turn.memory["version"] == pending + 1, turn.done)
            seen.add("proceed")
        if how == "wait":
            check(turn.done["read_version"] == pending, turn.done)
        if len(seen) == 2:
            break
    check(seen == {"reject", "proceed"}, "never stale:", seen)


@case()
def cancel(s):
    peer = s.peer()
    peer.open("s")
    for on_cancel in ("discard", "commit_partial"):
        before = peer.call("GET", {"session": "s"})["info"]["version"]
        body = {"session": "s", "query": "tell me a story", "on_cancel": on_cancel, **LONG}
        id = peer.send("TURN", body)
        while peer.expect_any(id).name != "TOKEN":
            pass
        peer.send("CANCEL", {"session": "s"}, id=id)
        turn = Turn(peer.finish(id))
        after = peer.call("GET", {"session": "s"})
        if on_cancel == "discard":
            check(turn.last.name == "CANCELLED" and turn.last.body["session"] == "s", turn.names)
            check(after["info"]["version"] == before, "a cancelled turn was remembered")
        else:
            check(turn.remembered().done["finish"] == "cancel", turn.done)
            check(after["last_ids"][after["n_query"] :] == turn.ids, "what was said is remembered")
    waits = [peer.send("TURN", {"session": "s", "query": "x", **LONG}) for _ in range(3)]
    peer.send("CANCEL", {"session": "s"}, id=waits[1])
    check(peer.finish(waits[1])[-1].name == "CANCELLED", "a turn that waits")
    peer.send("CANCEL", {"session": "s"}, id=os.urandom(16))  # unknown: ignored
    done = Turn(peer.finish(waits[0]))
    peer.send("CANCEL", {"session": "s"}, id=waits[0])  # too late: ignored
    peer.send("CANCEL", {"session": "s"}, id=waits[2])
    peer.finish(waits[2])
    peer.alive()
    check(done.memory, "another turn than the cancelled one ended")


@case()
def deadlines(s):
    peer = s.peer()
    peer.open("s")
    before = peer.call("GET", {"session": "s"})["info"]["version"]
    busy = peer.keep_busy("s")
    for key in ("queue_ms", "first_token_ms", "total_ms"):
        m = peer.refused("TURN", {"session": "s", "query": "x", key: 1}, 302, key)
        check(m.body["retryable"], m.body)
    made = sum(t.memory is not None for t in peer.let_go("s", busy))
    after = peer.call("GET", {"session": "s"})["info"]["version"]
    check(after == before + made, "a deadline left something:", before, made, after)
    # total_ms with commit_partial: what was said is the answer.
    body = {"session": "s", "query": "tell me a story", "on_cancel": "commit_partial", **LONG}
    for total in (6, 10, 15, 20):
        turn = Turn(peer.finish(peer.send("TURN", {**body, "total_ms": total})))
        if turn.done:
            break
    check(turn.done and turn.done["finish"] == "cancel", "total_ms did not end it", turn.last.body)
    turn.remembered()
    roomy = {k: 60000 for k in ("queue_ms", "first_token_ms", "total_ms", "memory_ms")}
    peer.turn("s", "hi", **roomy).remembered()


@case()
def a_deadline_of_the_memory(s):
    """memory_ms: how long it may wait for memories of earlier turns."""
    peer = s.peer()
    peer.open("s")
    for _ in range(40):
        ids = [peer.send("TURN", {"session": "s", "query": "x " * 60, "max_tokens": 1,
                                  "on_stale": "proceed"}) for _ in range(8)]
        last = peer.send("TURN", {"session": "s", "query": "y", "max_tokens": 1, "memory_ms": 1})
        turn = Turn(peer.finish(last))
        for id in ids:
            Turn(peer.finish(id)).remembered()
        if turn.error:
            check(turn.error["code"] == 302 and turn.error["key"] == "memory_ms", turn.error)
            return
    check(False, "memory_ms = 1 never passed")


@case()
def candidates(s):
    peer = s.peer()
    peer.open("s")
    before = peer.call("GET", {"session": "s"})["info"]
    body = {"session": "s", "query": "What did you do today?", "n": 3, "temperature": 1.3, "seed": 4,
            "max_tokens": 9}
    id = peer.send("TURN", body)
    while (m := peer.expect_any(id)).name != "UNDECIDED":
        check(m.name in ("ACCEPTED", "TOKEN"), m.name)
    check(m.body["read_version"] == 0 and m.body["expires_ms"] > 0, m.body)
    told = m.body["candidates"]
    by = [[i for t in peer.streams[id].came if t.name == "TOKEN" and t.body.get("candidate", 0) == k
           for i in t.body["ids"]] for k in range(3)]
    check([c["n_answer"] for c in told] == [len(b) for b in by], told)
    check(len({tuple(b) for b in by}) > 1, "the candidates are the same")
    info = peer.call("GET", {"session": "s"})["info"]
    check(info["version"] == before["version"], "undecided, and yet in the memory")
    peer.send("CHOOSE", {"session": "s", "candidate": 3}, id=id)
    check(not peer.error(id, 106).final, "the turn goes on")
    peer.send("CHOOSE", {"session": "s", "candidate": 2}, id=id)
    turn = Turn(peer.finish(id)).remembered()
    check(turn.done["candidate"] == 2 and turn.done["n_answer"] == len(by[2]), turn.done)
    got = peer.call("GET", {"session": "s"})
    check(got["last_ids"][got["n_query"] :] == by[2], "another candidate is remembered")
    other = s.peer()
    other.adopt(id, "TURN", body)
    other.send("CHOOSE", {"session": "s", "candidate": 0}, id=id)
    other.error(id, 204)
    dry = peer.send("TURN", {**body, "commit": "never"})
    done = peer.finish(dry)[-1]
    check(done.name == "DONE" and len(done.body["candidates"]) == 3, done)
    check("finish" not in done.body and "pending_version" not in done.body, done.body)
    peer.refused("CHOOSE", {"session": "s", "candidate": 0}, 202)


@case(grace_ms=300)
def candidates_that_nobody_chooses(s):
    peer = s.peer()
    peer.open("s")
    id = peer.send("TURN", {"session": "s", "query": "x", "n": 2, "max_tokens": 4, "temperature": 1})
    while peer.expect_any(id).name != "UNDECIDED":
        pass
    m = peer.error(id, 207)
    check(m.final, "expired candidates")
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 0, "one was remembered")
    peer.turn("s", "hi").remembered()
