"""A run in pieces is the run in one go: what is saved when it stops, where it goes on. Needs PyTorch."""

import importlib.util
import os
import tempfile
import unittest

if importlib.util.find_spec("torch") is None:
    raise SystemExit(77)  # skipped

import torch
from rxt_train import tokenizer, training
from rxt_train.sources import make_source
from rxt_train.bpe import Bpe

SIDE = {"turns": 2, "batch": 2, "buckets": [[96, 1.0]], "profiles": {"dense": 1.0}}
PLAN = {
    "data": {"workers": 1, "real_workers": 1},
    "model": {"vocab": 600, "dim": 32, "heads": 2, "n_layer": 2, "n_slot": 8, "ff": 64, "dec_q": 2,
              "dec_kv": 1, "enc_q": 2, "enc_kv": 2, "mem_q": 2, "mem_kv": 2},
    "optimizer": {"peak": 1e-3, "warmup": 2, "hold": 0.5, "floor": 0.1, "beta1": 0.9, "beta2": 0.95,
                  "decay": 0.05, "ema": 0.9, "value_weight": 3.0, "limit_memory_gradient": True,
                  "muon": 0.25, "skip": 10.0},
    "stage": [
        {"name": "short", "steps": 3, "lr": 1.0, "clip": 1.0, **SIDE},
        {"name": "long", "steps": 4, "lr": 0.5, "clip": 0.5, "real_every": 2, "real": ["short", "side"],
         **SIDE, "turns": 3},
    ],
    "real": {"side": SIDE},
}  # fmt: skip
BPE = Bpe(tokenizer.train(tokenizer.synthetic_text(100, 1), 600))


class Run:
    """A trainer with its workers and a log in a folder of its own."""

    def __init__(self, step=0, state=None):
        source = make_source(PLAN, 5, None, lambda real: BPE)
        self.pools = training.start_workers(PLAN, source, step, 10**9)
        self.trainer = training.Trainer(PLAN, 5, "cpu", compiled=False)
        if state:
            self.trainer.restore(state)

    def go(self, folder, left):
        log = training.Log(os.path.join(folder, "log.csv"))
        self.trainer.run(self.pools, 7, 7, log, left=left)
        for pool in self.pools.values():
            pool.stop()
        return self.trainer.state()


class Pieces(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)

    def test_stopped_and_resumed_is_the_same(self):
        with tempfile.TemporaryDirectory() as folder:
            whole = Run().go(folder, lambda: 1.0)
            self.assertEqual(whole["step"], 7)
            left = iter((1.0, 1.0, 1.0, 1.0, 0.0))
            piece = Run().go(folder, lambda: next(left))
            self.assertEqual(piece["step"], 5)
            rest = Run(5, piece).go(folder, lambda: 1.0)
            self.assertEqual(rest["step"], 7)
            for name in ("flat", "m", "v", "ema"):
                self.assertTrue(torch.equal(whole[name], rest[name]), name)
            self.assertFalse(torch.equal(piece["flat"], rest["flat"]))
            with open(os.path.join(folder, "log.csv"), encoding="utf-8") as f:
                self.assertEqual([row.split(",")[1] for row in f], ["step", "5"])

    def test_a_stage_may_name_another_stage(self):
        names = [phase.name for _, phase in training.schedule(PLAN)]
        self.assertEqual(names, ["short"] * 3 + ["side", "long", "short", "long"])


if __name__ == "__main__":
    unittest.main()
