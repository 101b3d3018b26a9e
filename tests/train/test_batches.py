"""Batches: pure functions of their number, rows where they belong, marks on the right tokens."""

import random
import unittest

import numpy as np
from rxt_train import tokenizer
from rxt_train.batches import Phase, Source, Workers, encode_turn
from rxt_train.bpe import Bpe
from rxt_train.dialogue import Generator
from rxt_train.entities import Entities
from rxt_train.small_talk import SmallTalk
from rxt_train.world import ASK, Templates, Turn

BPE = Bpe(tokenizer.train(tokenizer.synthetic_text(100, 1), 600))
ENTITIES = Entities("train")
SOURCE = Source(BPE, Generator(Templates("train"), ENTITIES, SmallTalk(ENTITIES)), None, 5)
PHASE = Phase("p", 4, 6, ((40, 0.3), (96, 1.0)), (("dense", 1.0),))
FIELDS = ("ids", "mark", "kind", "distance", "order", "order_enc")


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


class Batches(unittest.TestCase):
    def test_number_of_workers_changes_nothing(self):
        alone = [SOURCE.batch(PHASE, i) for i in range(5)]
        self.assertFalse(same(alone[0], alone[1]))
        for count in (1, 3):
            workers = Workers(SOURCE, PHASE, 0, count)
            self.assertTrue(same(workers.peek(), alone[0]))
            found = [workers.get() for _ in range(5)]
            workers.stop()
            self.assertTrue(all(same(a, b) for a, b in zip(alone, found)))

    def test_rows_hold_turns_of_their_dialogue(self):
        batch = SOURCE.batch(PHASE, 0)
        rng = random.Random("5 p 0 0")
        for b in range(PHASE.batch):
            for t, (ids, marks, turn) in enumerate(SOURCE.dialogue(PHASE, rng)):
                row = t * PHASE.batch + b
                self.assertEqual(batch.ids[row][: len(ids)].tolist(), ids)
                self.assertTrue((batch.ids[row][len(ids) :] == BPE.pad).all())
                self.assertEqual(batch.mark[row][: len(ids)].tolist(), marks)
                self.assertEqual(batch.kind[row], turn.kind)

    def test_buckets_hold_what_is_short_enough(self):
        batch = SOURCE.batch(PHASE, 3)
        size = (batch.ids != BPE.pad).sum(1)
        for order in (batch.order, batch.order_enc):
            self.assertEqual(sorted(order.tolist()), list(range(len(order))))
            for length, first, last in PHASE.cuts(len(order)):
                self.assertLessEqual(size[order[first:last]].max(), length)

    def test_marks(self):
        turn = Turn("Who am I?", "You are Kavu.", ASK, "user_name", 1, [(8, 12)])
        ids, marks = encode_turn(BPE, turn)
        self.assertEqual((ids[0], ids[1], ids[-1]), (BPE.bos, BPE.q, BPE.eos))
        self.assertEqual(BPE.decode([i for i, m in zip(ids, marks) if m == 2]), " Kavu")
        self.assertEqual(BPE.decode([i for i, m in zip(ids, marks) if m]), "You are Kavu.")
        turn.stray = True  # heard, but no token of it is learned
        heard, marks = encode_turn(BPE, turn)
        self.assertEqual(heard, ids)
        self.assertEqual([i for i, m in zip(ids, marks) if m == 3], ids[ids.index(BPE.a) + 1 :])
        self.assertEqual(set(marks), {0, 3})
        turn.cut = True
        self.assertNotIn(BPE.eos, encode_turn(BPE, turn)[0])

    def test_impossible_buckets_are_named(self):
        tight = Phase("tight", 4, 6, ((8, 0.9), (96, 1.0)), (("dense", 1.0),))
        with self.assertRaisesRegex(ValueError, "tight"):
            SOURCE.batch(tight, 0)


if __name__ == "__main__":
    unittest.main()
