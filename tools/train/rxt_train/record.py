"""Records a greedy conversation with a checkpoint in float32, for `rxt verify` and the tests: every
id, the smallest margin of the best token, and fingerprints of the memory after the first turns.
How many: as long as rounding stays below the tolerance, which depends on the checkpoint.

usage: python -m rxt_train.record CHECKPOINT_FOLDER queries.txt FINGERPRINTS conversation.json
"""

import json
import os
import sys

import torch

from . import checkpoint
from .bpe import Bpe
from .model import Model
from .parity import fingerprint, greedy


@torch.no_grad()
def record(folder, queries, fingerprints):
    shape, _, arrays = checkpoint.load(folder)
    model, bpe = Model(shape), Bpe.load(os.path.join(folder, "tokenizer.json"))
    model.load(arrays)
    stm, turns = model.initial(1), []
    for query in queries:
        ids = [bpe.bos, bpe.q, *bpe.encode(query), bpe.a]
        answer, margin = greedy(model, stm, ids, bpe.eos, shape.max_seq_len - len(ids))
        if answer[-1] != bpe.eos:
            raise ValueError(f"the answer to {query!r} does not end: a recording needs [EOS]")
        k, v = model.encoded(torch.tensor([ids + answer]), None)
        stm = model.update(stm, k, v, None)
        turn = {"query": query, "query_ids": ids, "answer_ids": answer}
        turn |= {"answer": bpe.decode(answer), "min_margin": round(margin, 4)}
        if len(turns) < fingerprints:
            rms, total, first, last = fingerprint(stm[:, 0])
            turn |= {"stm_rms": rms, "stm_sum": total}
            turn["stm_first"] = [round(x, 6) for x in first.tolist()]
            turn["stm_last"] = [round(x, 6) for x in last.tolist()]
        turns.append(turn)
    return turns


def main(folder, queries, fingerprints, out):
    torch.set_num_threads(1)
    with open(queries, encoding="utf-8") as f:
        turns = record(folder, f.read().splitlines(), int(fingerprints))
    with open(out, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(turn) for turn in turns) + "\n]\n")
    print(f"{len(turns)} turns, smallest margin {min(t['min_margin'] for t in turns)}")


if __name__ == "__main__":
    main(*sys.argv[1:5])
