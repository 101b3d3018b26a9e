"""Replays a recorded conversation with a checkpoint in float32 (recipe 9.1): all ids and the
fingerprints of the memory must come back.

usage: python -m rxt_train.parity CHECKPOINT_FOLDER conversation.json
"""

import json
import sys

import torch

from . import checkpoint
from .model import Model


def fingerprint(stm):
    flat = stm.flatten().double()
    return flat.pow(2).mean().sqrt().item(), flat.sum().item(), flat[:8], flat[-8:]


def greedy(model, stm, ids, eos, limit=48):
    """The recorded loop: recompute the whole row for every token."""
    kv, ids, margins = model.read(stm), list(ids), []
    first = len(ids)
    while len(ids) - first < limit:
        row = torch.tensor([ids])
        top = model.logits(model.decode(row, kv))[0, -1].topk(2)
        margins.append((top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
        if ids[-1] == eos:
            break
    return ids[first:], min(margins)


@torch.no_grad()
def replay(folder, recording):
    shape, config, arrays = checkpoint.load(folder)
    model = Model(shape)
    model.load(arrays)
    eos = config["tokenizer_config"]["eos_token_id"]
    with open(recording, encoding="utf-8") as f:
        turns = json.load(f)
    stm, worst, wrong = model.initial(1), 0.0, 0
    for turn in turns:
        answer, margin = greedy(model, stm, turn["query_ids"], eos)
        wrong += answer != turn["answer_ids"]
        row = torch.tensor([turn["query_ids"] + turn["answer_ids"]])
        k, v = model.encoded(row, None)
        stm = model.update(stm, k, v, None)
        print(f"{answer == turn['answer_ids']} margin {margin:.4f} ({turn['min_margin']:.4f})")
        if "stm_rms" not in turn:
            continue
        rms, total, first, last = fingerprint(stm[:, 0])
        off = [abs(rms - turn["stm_rms"]), (first - torch.tensor(turn["stm_first"])).abs().max()]
        off.append((last - torch.tensor(turn["stm_last"])).abs().max())
        worst = max(worst, *[float(x) for x in off])
        print(f"  memory off by {max(float(x) for x in off):.1e}, sum by {abs(total - turn['stm_sum']):.1e}")
    print(f"{len(turns)} turns, {wrong} with other ids, memory off by {worst:.1e} at most")
    return wrong == 0 and worst < 1e-4


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(0 if replay(*sys.argv[1:3]) else 1)
