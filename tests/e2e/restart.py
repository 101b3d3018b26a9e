"""The conversation of the reference, the program started anew for every turn, on 1 and 2 threads and
with every instruction set: the same ids and the same memory, bit by bit, in all of them. The slow
scalar path has its runs only with RXT_FULL; rxt.conversation_scalar holds its first turns to the
same ids in any case."""

import os
import pathlib
import sys
import tempfile

from run_rxt import CONVERSATION, QUERIES, chat, show


def isas():
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    found = []
    if " avx2 " in flags and " fma " in flags:
        found.append("avx2")
    if " avx512f " in flags and " avx512vl " in flags:
        found.append("avx512")
    if os.environ.get("RXT_FULL") or not found:
        found.append("scalar")
    return found


def main():
    want = None
    with tempfile.TemporaryDirectory() as name:
        runs = [(isa, threads) for isa in isas() for threads in (1, 2)]
        for isa, threads in runs:
            store = pathlib.Path(name) / f"{isa}{threads}.db"
            options = ["--threads", threads]
            _, turns = chat(store, QUERIES, options=options, env={"RXT_ISA": isa})
            for turn, golden in zip(turns, CONVERSATION, strict=True):
                assert turn["query_ids"] == golden["query_ids"], turn
                assert turn["answer_ids"] == golden["answer_ids"], turn
                assert turn["answer"] == golden["answer"], turn
            hashes = [turn["stm_hash"] for turn in turns]
            want = want or hashes
            assert hashes == want, f"{isa} on {threads} threads gives other bits"
        store = pathlib.Path(name) / "restarted.db"
        for i, query in enumerate(QUERIES):
            _, turns = chat(store, [query])
            assert [turn["stm_hash"] for turn in turns] == [want[i]]
            state = show(store)
            assert state["version"] == i + 1 and state["stm_hash"] == want[i]
            assert state["last_query"] == query
            assert state["last_answer_ids"] == CONVERSATION[i]["answer_ids"]
    print(f"restart: {len(runs)} runs and {len(QUERIES)} restarts, one list of memories")


if __name__ == "__main__":
    sys.exit(main())
