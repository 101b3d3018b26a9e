#!/usr/bin/env python3
"""Trains a model from a plan, in one go or in slices.

usage: run.py --config demo.toml --seed 1 [--data FOLDER] [--out FOLDER] [--until STEP]
              [--stop MINUTES] [--fit MINUTES] [--from MODEL] [--device cuda|cpu] [--prepare]

--data     the text (see README.md); without it only generated dialogues are used
--out      log.csv, state.pt to resume from, tokenizer.json, and model/ at the end
--until    stops after this step; the next call goes on from there
--stop     saves and stops before so many minutes from the start; the next call goes on
--fit      minutes the run may take from its start: each phase is timed and the plan's steps are
           scaled to fill what is left; OUT/plan.json keeps the scaled plan for resuming
--from     begins with the weights and the tokenizer of a checkpoint folder
--prepare  compiles and times every phase and ends: what it compiled stays in
           TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR, and the next run need not compile

SIGTERM saves and stops like --stop.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time

BEGIN = time.time()  # loading PyTorch takes seconds, too
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rxt_train import training  # noqa: E402
from rxt_train.sources import make_source, make_tokenizer  # noqa: E402

SAVE_SECONDS = 180
RESERVE_SECONDS = 10  # of --stop: for steps that are queued, and for saving


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default=os.environ.get("RXT_TRAIN_DATA"))
    parser.add_argument("--out", default="build/train")
    parser.add_argument("--until", type=int)
    parser.add_argument("--stop", type=float, default=float("inf"))
    parser.add_argument("--fit", type=float)
    parser.add_argument("--from", dest="origin")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--prepare", action="store_true")
    return parser.parse_args()


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    plan = training.read_plan(args.config)
    scaled = os.path.join(args.out, "plan.json")
    if os.path.exists(scaled):
        with open(scaled, encoding="utf-8") as f:
            plan = json.load(f)
    tokenizer = os.path.join(args.out, "tokenizer.json")
    if args.origin and not os.path.exists(tokenizer):
        shutil.copyfile(os.path.join(args.origin, "tokenizer.json"), tokenizer)
    source = make_source(plan, args.seed, args.data, lambda real: make_tokenizer(plan, real, tokenizer))
    state_path = os.path.join(args.out, "state.pt")
    step = 0
    if os.path.exists(state_path + ".step"):
        with open(state_path + ".step", encoding="utf-8") as f:
            step = int(f.read())
    end = args.until or 10**9
    pools = training.start_workers(plan, source, step, end)  # before the device is touched

    import torch

    torch.set_num_threads(max(1, min(4, os.cpu_count() // 4)))
    torch.backends.cuda.matmul.allow_tf32 = True
    trainer = training.Trainer(plan, args.seed, args.device, compiled=args.device == "cuda")
    if step:
        trainer.restore(torch.load(state_path, map_location=args.device, weights_only=True))
    elif args.origin:
        from rxt_train import checkpoint

        trainer.begin_with(*checkpoint.load(args.origin))
    if args.prepare:
        trainer.warm_up(pools)
        return stop(pools)
    if args.fit and not step:
        trainer.fit(pools, BEGIN + 60 * args.fit)
        with open(scaled, "w", encoding="utf-8") as f:
            json.dump(plan, f, indent=1)
    trainer.prepare_all(pools)
    total = sum(stage["steps"] for stage in plan["stage"])
    print(f"{trainer.model.flat.numel()} parameters, step {trainer.step} of {total}, "
          f"ready after {time.time() - BEGIN:.0f} s", flush=True)

    def save():
        torch.save(trainer.state(), state_path + ".new")
        os.replace(state_path + ".new", state_path)
        with open(state_path + ".step", "w", encoding="utf-8") as f:
            f.write(str(trainer.step))
        export(trainer, source.bpe, tokenizer, args)

    saved = time.time()

    def on_log(trainer, row):
        nonlocal saved
        if time.time() - saved > SAVE_SECONDS:
            save()
            saved = time.time()

    deadline = BEGIN + 60 * args.stop - RESERVE_SECONDS

    def left():
        return deadline - time.time()

    def end_now(*_):
        nonlocal deadline
        deadline = 0

    signal.signal(signal.SIGTERM, end_now)
    try:
        log = training.Log(os.path.join(args.out, "log.csv"))
        trainer.run(pools, total, min(end, total), log, on_log, left)
    finally:
        stop(pools)
    save()
    print(f"step {trainer.step} saved after {time.time() - BEGIN:.0f} s", flush=True)


def stop(pools):
    for pool in pools.values():
        pool.stop()


def export(trainer, bpe, tokenizer, args):
    from rxt_train import checkpoint

    folder = os.path.join(args.out, "model")
    with open(tokenizer, encoding="utf-8") as f:
        text = f.read()
    arrays = trainer.average().arrays()
    size = checkpoint.save(folder, trainer.shape, arrays, bpe.token_ids(), text)
    print(json.dumps({"step": trainer.step, "model": folder, "bytes": size}))


if __name__ == "__main__":
    main()
