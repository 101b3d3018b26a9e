"""Runs the recall benchmark on a checkpoint, with controls and free running, and measures fluency.

usage: python -m rxt_train.evaluate MODEL_FOLDER --bench FILE.jsonl.gz [--modes given,free,...]
       [--fluency DATA_FOLDER] [--out report.md] [--answers answers.json] [--device cuda]
       python -m rxt_train.evaluate MODEL_FOLDER --own 30 ...   a benchmark of valid values

Modes: given (the answers of the item enter the memory), free (the model's own do), reset, swap,
nomemory (the controls: an initial memory, another item's, and no read at all).
"""

import argparse
import json
import os
import random
import time

import torch

from . import bench, checkpoint, chat
from .bpe import Bpe
from .model import Model
from .realtext import RealText

MODES = ("given", "free", "reset", "swap", "nomemory")


def encode(bpe, q, a):
    return [bpe.bos, bpe.q, *bpe.encode(q), bpe.a, *bpe.encode(a), bpe.eos]


def prompt(bpe, q):
    return [bpe.bos, bpe.q, *bpe.encode(q), bpe.a]


@torch.no_grad()
def final_memories(model, bpe, items, own_answers=False):
    """The memory before `ask` of every item, [L, items, S, D]."""
    order = sorted(range(len(items)), key=lambda i: -len(items[i]["turns"]))
    stm = model.initial(len(items))
    for t in range(len(items[order[0]]["turns"]) if items else 0):
        active = [i for i in order if len(items[i]["turns"]) > t]
        n = len(active)
        turns = [items[i]["turns"][t] for i in active]
        if own_answers:
            prompts = [prompt(bpe, x["q"]) for x in turns]
            answers = chat.answer(model, stm[:, :n], prompts, bpe.eos)
            rows = [p + a for p, a in zip(prompts, answers)]
        else:
            rows = [encode(bpe, x["q"], x["a"]) for x in turns]
        stm[:, :n] = chat.remember(model, stm[:, :n].contiguous(), rows)
    place = torch.empty(len(items), dtype=torch.long)
    place[torch.tensor(order)] = torch.arange(len(items))
    return stm.index_select(1, place.to(stm.device))


@torch.no_grad()
def run(model, bpe, items, modes):
    """mode -> answers (text) to the items' questions."""
    out = {}
    prompts = [prompt(bpe, x["ask"]) for x in items]
    given = None
    for mode in modes:
        begin = time.time()
        if mode == "free":
            stm = final_memories(model, bpe, items, own_answers=True)
        elif mode == "reset":
            stm = model.initial(len(items))
        else:
            given = final_memories(model, bpe, items) if given is None else given
            stm = given.roll(len(items) // 3 + 1, 1) if mode == "swap" else given
        rows = chat.answer(model, stm, prompts, bpe.eos, no_memory=mode == "nomemory")
        out[mode] = [bpe.decode(row) for row in rows]
        print(f"{mode}: {time.time() - begin:.0f} s", flush=True)
    return out


def report(items, answers):
    """Markdown: the tables of each mode; controls over all sets but F."""
    lines = []
    for mode, texts in answers.items():
        if mode in ("given", "free"):
            lines += [f"### {mode}", "", bench.table(items, texts), ""]
        else:
            told = [(i, a) for i, a in zip(items, texts) if i["set"] != "F"]
            good = sum(bench.right(i, a) for i, a in told)
            low, high = bench.wilson(good, len(told))
            lines.append(f"- control {mode}: {100 * good / len(told):.1f} % ({good} of {len(told)};"
                         f" {100 * low:.1f}-{100 * high:.1f})")
    if "given" in answers:
        kinds = {}
        for item, text in zip(items, answers["given"]):
            if item["set"] in "BCDEG" and item["k"] <= 16:
                a, b = kinds.get(item["attr"], (0, 0))
                kinds[item["attr"]] = (a + bench.right(item, text), b + 1)
        rows = sorted(kinds.items(), key=lambda x: x[1][0] / x[1][1])
        lines += ["", "By attribute (given; B, C, D, E, G; k 1 to 16): "]
        lines.append(", ".join(f"{name} {100 * a / b:.0f} % of {b}" for name, (a, b) in rows))
    return "\n".join(lines) + "\n"


@torch.no_grad()
def fluency(model, bpe, folder, limit=200):
    """Bits per byte of held-out answers per set, with the memory on, reset and of another row."""
    real, lines = RealText(folder, "test"), []
    for name, dialogues in real.dialogues.items():
        pick = [d[:6] for d in dialogues[:limit]]
        pick = [[(q, a) for q, a in d if len(encode(bpe, q, a)) <= 192] for d in pick]
        pick = [d for d in pick if d]
        if not pick:
            continue
        bits, n_bytes = dict.fromkeys(("on", "reset", "swap"), 0.0), 0
        stm = model.initial(len(pick))
        for t in range(max(len(d) for d in pick)):
            active = [i for i, d in enumerate(pick) if len(d) > t]
            rows = [encode(bpe, *pick[i][t]) for i in active]
            index = torch.tensor(active, device=stm.device)
            memory = stm.index_select(1, index)
            if t or len(pick[0]) == 1 or name in ("mschitchat", "smalltalk-clinc"):
                n_bytes += sum(len(pick[i][t][1].encode()) for i in active)
                for mode, m in (("on", memory), ("reset", model.initial(len(active))),
                                ("swap", memory.roll(1, 1))):
                    bits[mode] += answer_bits(model, bpe, m, rows)
            memory = chat.remember(model, memory, rows)
            stm.index_copy_(1, index, memory)
        if n_bytes:
            values = ", ".join(f"{mode} {x / n_bytes:.3f}" for mode, x in bits.items())
            lines.append(f"- {name}: {values} bits a byte ({n_bytes} bytes)")
    return "\n".join(lines) + "\n"


def answer_bits(model, bpe, stm, rows):
    width = max(len(r) for r in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    for i, r in enumerate(rows):
        ids[i, : len(r)] = torch.tensor(r)
    ids = ids.to(stm.device)
    logits = model.logits(model.decode(ids, model.read(stm)))[:, :-1].float()
    ce = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    after = (ids == bpe.a).cumsum(1)[:, :-1] > 0
    return (ce * (after & (ids[:, 1:] != bpe.pad))).sum().item() / 0.6931471805599453


OPENERS = (
    "Hello!", "Good morning.", "How are you?", "What is your name?", "Are you a robot?",
    "Tell me a joke.", "What is the weather like?", "What time is it?", "How much is 7 plus 5?",
    "Thank you very much!", "I am bored.", "I am feeling sad today.", "Good night.",
    "What can you do?", "hi there", "who made you", "Do you like music?", "I had a long day at work.",
    "What should I eat for dinner?", "Do you have any hobbies?", "I love rainy days.",
    "Have you seen any good movies?", "See you later!", "What is the meaning of life?",
    "Can you help me?", "Sorry, I made a mistake.", "you are funny", "I just woke up.",
    "What is the capital of France?", "Do you sleep?",
)  # fmt: skip


def samples(model, bpe, temperature):
    """One reply to each opener, from the initial memory."""
    stm = model.initial(len(OPENERS))
    rows = chat.answer(model, stm, [prompt(bpe, q) for q in OPENERS], bpe.eos, temperature=temperature)
    ended = sum(row[-1] == bpe.eos for row in rows)
    special = sum(any(i in bpe.special.values() for i in row[:-1]) for row in rows)
    looped = 0
    for row in rows:
        grams = [tuple(row[i : i + 4]) for i in range(len(row) - 3)]
        looped += len(grams) != len(set(grams))
    head = f"ended {ended} of {len(rows)}, special tokens inside {special}, repeated 4-gram {looped}"
    return [head] + [f"{q} -> {bpe.decode(r)}" for q, r in zip(OPENERS, rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--bench")
    parser.add_argument("--most-k", type=int, default=64, help="leave out items of larger k")
    parser.add_argument("--sets", default=bench.SETS, help="the sets to run")
    parser.add_argument("--own", type=int, help="items a cell of a benchmark of valid values")
    parser.add_argument("--modes", default="given")
    parser.add_argument("--fluency")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--answers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    shape, _, arrays = checkpoint.load(args.model)
    model = Model(shape, args.device)
    model.load(arrays)
    bpe = Bpe.load(os.path.join(args.model, "tokenizer.json"))
    text = ""
    if args.bench or args.own:
        items = bench.read(args.bench) if args.bench else own_items(args.own, args.fluency)
        items = [x for x in items if x["k"] <= args.most_k and x["set"] in args.sets]
        answers = run(model, bpe, items, args.modes.split(","))
        text += report(items, answers)
        if args.answers:
            with open(args.answers, "w", encoding="utf-8") as f:
                json.dump({x["id"]: [a[i] for a in answers.values()] for i, x in enumerate(items)}, f)
    if args.samples:
        for temperature in (0.0, 0.7):
            text += f"\n### Openers, temperature {temperature}\n\n"
            text += "\n".join(samples(model, bpe, temperature)) + "\n"
    if args.fluency and not args.own:
        text += "\n### Fluency\n\n" + fluency(model, bpe, args.fluency)
    print(text)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            f.write(text)


def own_items(each, folder):
    real = RealText(folder, "test") if folder else None
    builder = bench.Builder("valid", *((real.singles, real.runs) if real else ()))
    items = builder.build(each, 1)
    random.Random(1).shuffle(items)
    return items


if __name__ == "__main__":
    main()
