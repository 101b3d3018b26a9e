"""The session verbs: section 4.1 of PROTOCOL.md from OPEN to REMEMBER."""

import os

from rxtp import check
from suite import case

UNKNOWN = "unknown session"


@case()
def open_makes_a_session_once(s):
    peer = s.peer()
    first = peer.open("s", seed=5)
    check(first["session"] == "s" and first["version"] == 0 and first["n_turn"] == 0, first)
    check(first["seed"] == 5 and first["stm_dtype"] == "f32" and not first["mixed_class"], first)
    again = peer.open("s", seed=6)
    check(again["seed"] == 5 and again["created_us"] == first["created_us"], again)
    free = peer.open("free", seed=0)
    check(free["seed"] != 0, "seed 0 is a random one", free)


@case(rows=[UNKNOWN])
def no_verb_makes_a_session_by_the_way(s):
    turn, state = s.peer(), s.peer("state")
    for name, more in (
        ("TURN", {"query": "hi"}), ("GET", {}), ("FORK", {"to": "x"}), ("REWIND", {"version": 0}),
        ("RESET", {}), ("ERASE", {}), ("REMEMBER", {"ids": [1]}),
    ):
        turn.refused(name, {"session": "nobody", **more}, 201)
    turn.refused("OPEN", {"session": "x", "from": "nobody"}, 201)
    state.refused("EXPORT", {"session": "nobody"}, 201)
    state.refused("DIFF", {"session": "nobody", "version": 0}, 201)
    check(turn.call("LIST", {})["sessions"] == [], "a session came into being")


@case()
def list_pages_in_the_order_of_bytes(s):
    peer = s.peer()
    names = sorted(("a", "b", "ä", "B", "a.1", "a-2", "z" * 127, "東京"), key=str.encode)
    for name in names:
        peer.open(name)
    everything = peer.call("LIST", {"limit": 256})
    check([i["session"] for i in everything["sessions"]] == names, everything)
    check(not everything["more"], "more")
    got, after, more = [], "", True
    while more:
        page = peer.call("LIST", {"after": after, "limit": 3})
        got += [i["session"] for i in page["sessions"]]
        after, more = got[-1], page["more"]
        check(len(page["sessions"]) == 3 or not more, "a short page")
        check(len(got) <= len(names), "LIST never ends", got)
    check(got == names, got)
    begin = peer.call("LIST", {"prefix": "a"})["sessions"]
    check([i["session"] for i in begin] == ["a", "a-2", "a.1"], begin)
    check(peer.call("LIST", {"held": True})["sessions"] == [], "nothing is held")


@case()
def get_reports_the_last_turn(s):
    peer = s.peer()
    peer.open("s")
    empty = peer.call("GET", {"session": "s"})
    check(empty["last_ids"] == [] and empty["n_query"] == 0, empty)
    check("stm_hash" in empty["info"], "GET knows the hash")
    turn = peer.turn("s", "hi, i'm Anna").remembered()
    got = peer.call("GET", {"session": "s"})
    check(got["n_query"] == turn.done["n_query"], got, turn.done)
    check(got["last_ids"][got["n_query"] :] == turn.ids, "the answer's ids", got)
    check(got["info"]["version"] == 1 and got["info"]["n_turn"] == 1, got)
    check(got["info"]["stm_hash"] == turn.memory["stm_hash"], "hash")
    check(got["info"]["used_us"] > empty["info"]["used_us"], "used_us", got, empty)


@case()
def fork_rewind_and_reset(s):
    peer = s.peer()
    zero = peer.open("s")["version"]
    hashes = [peer.call("GET", {"session": "s"})["info"]["stm_hash"]]
    for query in ("hi, i'm Anna", "my pet is called Bruno", "tell me a joke"):
        hashes.append(peer.turn("s", query).remembered().memory["stm_hash"])
    check(len(set(hashes)) == 4 and zero == 0, "the memory did not change")
    info = peer.call("FORK", {"session": "s", "to": "f", "version": 2})["info"]
    check(info["session"] == "f" and info["origin"] == "s" and info["origin_version"] == 2, info)
    check(peer.call("GET", {"session": "f"})["info"]["stm_hash"] == hashes[2], "of version 2")
    newest = peer.call("FORK", {"session": "s", "to": "g"})["info"]
    check(newest["origin_version"] == 3, newest)
    # A fork goes on as its origin would have.
    check(peer.turn("f", "tell me a joke").memory["stm_hash"] == hashes[3], "the fork differs")
    for name, version, want in (("REWIND", 1, hashes[1]), ("RESET", None, hashes[0])):
        body = {"session": "s"} | ({"version": version} if version is not None else {})
        id = peer.send(name, body)
        done, memory = peer.finish(id)
        check(done.body["pending_version"] == memory.body["version"], name)
        check(memory.body["stm_hash"] == want, name, "gives another memory")
    info = peer.call("GET", {"session": "s"})["info"]
    check(info["version"] == 5, "the version never goes back", info)
    for name, more in (("FORK", {"to": "x"}), ("REWIND", {})):
        peer.refused(name, {"session": "s", "version": 99, **more}, 203)
    peer.refused("OPEN", {"session": "x", "from": "s", "from_version": 99}, 203)
    peer.refused("FORK", {"session": "s", "to": "f"}, 204)
    check(peer.call("GET", {"session": "f"})["info"]["version"] == info["version"] - 2, "f changed")


@case()
def a_seed_memory_is_shared(s):
    peer = s.peer()
    peer.open("prompt")
    memory = peer.turn("prompt", "hi, i'm Anna").remembered().memory["stm_hash"]
    for name, more, want in (("a", {}, memory), ("b", {"from_version": 1}, memory)):
        peer.call("OPEN", {"session": name, "from": "prompt", **more})
        check(peer.call("GET", {"session": name})["info"]["stm_hash"] == want, name)
    peer.call("OPEN", {"session": "a", "from": "b"})  # it exists: not looked at
    peer.turn("a", "my pet is called Bruno").remembered()
    check(peer.call("GET", {"session": "b"})["info"]["stm_hash"] == memory, "b changed with a")
    check(peer.call("GET", {"session": "prompt"})["info"]["stm_hash"] == memory, "prompt changed")


@case()
def erase_leaves_nothing(s):
    peer = s.peer()
    peer.open("s")
    peer.open("t")
    first = peer.turn("s", "hi, i'm Anna", seed=3).remembered()
    check(peer.call("ERASE", {"session": "s"}) == {"session": "s"}, "ERASE")
    peer.refused("GET", {"session": "s"}, 201)
    peer.refused("ERASE", {"session": "s"}, 201)
    check([i["session"] for i in peer.call("LIST", {})["sessions"]] == ["t"], "it is listed")
    peer.open("s")
    again = peer.turn("s", "hi, i'm Anna", seed=3, id=first.id).remembered()
    check(not again.stored and again.memory["version"] == 1, "the journal outlived it")
    check(again.memory["stm_hash"] == first.memory["stm_hash"], "same seed, same memory")


@case()
def remember_is_a_turn_without_decoding(s):
    peer = s.peer()
    for name in ("told", "ids", "spoken"):
        peer.open(name)
    spoken = peer.turn("spoken", "hi, i'm Anna").remembered()
    ids = peer.call("GET", {"session": "spoken"})["last_ids"]
    id = peer.send("REMEMBER", {"session": "ids", "ids": ids})
    done, memory = peer.finish(id)
    check(done.body["pending_version"] == 1, done.body)
    check(memory.body["stm_hash"] == spoken.memory["stm_hash"], "the same ids, another memory")
    told = {"session": "told", "query": "hi, i'm Anna", "answer": spoken.text}
    peer.finish(peer.send("REMEMBER", told))
    got = peer.call("GET", {"session": "told"})
    n_query = spoken.done["n_query"]
    check(got["last_ids"][:n_query] == ids[:n_query], "the template", got, ids)
    peer.finish(peer.send("REMEMBER", {**told, "answer": "", "if_version": 1}))
    peer.refused("REMEMBER", {**told, "if_version": 1}, 205)
    # A repeat is never a second one.
    again = peer.send("REMEMBER", {"session": "ids", "ids": ids}, id=id)
    check(peer.finish(again)[-1].name in ("DONE", "MEMORY"), "a repeated REMEMBER")
    check(peer.call("GET", {"session": "ids"})["info"]["version"] == 1, "remembered twice")


@case()
def a_request_id_is_of_one_kind(s):
    peer = s.peer()
    peer.open("s")
    id = os.urandom(16)
    peer.turn("s", "hi", id=id).remembered()
    other = s.peer()
    other.refused("REMEMBER", {"session": "s", "ids": [1]}, 204, id=id)
    other.refused("RESET", {"session": "s"}, 204, id=id)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 1, "it was done")
