"""Batches of tokenised windows. Batch i of a phase is a pure function of (seed, phase, i), so the
number of worker processes changes nothing."""

import multiprocessing
import queue
import random
from dataclasses import dataclass

import numpy as np

from .dialogue import PROFILES
from .world import ASK, CHAT, REAL, Turn


@dataclass(frozen=True)
class Phase:
    """Windows of one kind. Rows lie turn first: row t * batch + b is turn t of dialogue b.

    buckets: (length, share of the rows), shortest first; the last length is the longest turn
    allowed. Rows sorted by length fill them, so that short turns do not pay for long ones. The
    encoder, which skips the last turn of a window, has the same shares of fewer rows.
    """

    name: str
    turns: int
    batch: int
    buckets: tuple
    profiles: tuple = ()  # (profile, share); empty: real text
    mix: tuple = ()  # (set, share)

    @property
    def length(self):
        return self.buckets[-1][0]

    def cuts(self, rows):
        """[(length, first, last)]: the places of sorted rows in each bucket."""
        out, first = [], 0
        for i, (length, share) in enumerate(self.buckets):
            last = rows if i + 1 == len(self.buckets) else first + int(rows * share)
            out.append((length, first, last))
            first = last
        return out

    @property
    def rows(self):
        return self.turns * self.batch

    @property
    def rows_enc(self):
        return (self.turns - 1) * self.batch


@dataclass
class Batch:
    ids: np.ndarray  # int16 [rows, length]
    # uint8 [rows, length]: 0 query or padding, 1 answer, 2 value in the answer, 3 not to be learned
    mark: np.ndarray
    kind: np.ndarray  # uint8 [rows]
    distance: np.ndarray  # uint8 [rows]
    order: np.ndarray  # int64 [rows]: rows by length, the shortest first
    order_enc: np.ndarray  # int64 [rows_enc]


def encode_turn(bpe, turn):
    """(ids, marks) of [BOS][Q]q[A]a[EOS]; marks as in Batch, [EOS] counts as answer."""
    query = bpe.encode(turn.q)
    answer, value = bpe.encode_spans(turn.a, turn.spans)
    if turn.kind != ASK:
        value = [0] * len(answer)
    if turn.cut and len(answer) > 3:
        answer, value, end = answer[:-2], value[:-2], []
    else:
        end = [bpe.eos]
    ids = [bpe.bos, bpe.q, *query, bpe.a, *answer, *end]
    marks = [1 + v for v in value] + [1] * len(end)
    return ids, [0] * (len(query) + 3) + ([3] * len(marks) if turn.stray else marks)


class Source:
    """Makes the batches of phases; real may be None where no phase needs it."""

    def __init__(self, bpe, generator, real, seed):
        self.bpe, self.generator, self.real, self.seed = bpe, generator, real, seed

    def dialogue(self, phase, rng):
        """Encoded turns [(ids, marks, turn)] that all fit into phase.length."""
        while True:
            if phase.profiles:
                names, shares = zip(*phase.profiles)
                profile = PROFILES[rng.choices(names, shares)[0]]
                turns = self.generator.dialogue(profile, phase.turns, rng)
            else:
                names, shares = zip(*phase.mix)
                name = rng.choices(names, shares)[0]
                pairs = self.real.window(name, phase.turns, rng)
                turns = [Turn(q, a, REAL) for q, a in pairs]
            out = []
            for turn in turns:
                ids, marks = encode_turn(self.bpe, turn)
                if len(ids) > phase.length and turn.kind == CHAT:
                    turn.q, turn.a = self.generator.small_talk.knowledge(rng)
                    ids, marks = encode_turn(self.bpe, turn)
                if len(ids) > phase.length:
                    break
                out.append((ids, marks, turn))
            if len(out) == phase.turns:
                return out

    def batch(self, phase, i):
        for attempt in range(20):
            batch = self._batch(phase, random.Random(f"{self.seed} {phase.name} {i} {attempt}"))
            if batch is not None:
                return batch
        raise ValueError(f"phase {phase.name}: more long turns than its buckets have room for")

    def _batch(self, phase, rng):
        ids = np.full((phase.rows, phase.length), self.bpe.pad, np.int16)
        mark = np.zeros((phase.rows, phase.length), np.uint8)
        kind, distance = np.zeros(phase.rows, np.uint8), np.zeros(phase.rows, np.uint8)
        size = np.zeros(phase.rows, np.int16)
        for b in range(phase.batch):
            for t, (row_ids, row_mark, turn) in enumerate(self.dialogue(phase, rng)):
                row = t * phase.batch + b
                size[row] = len(row_ids)
                ids[row, : len(row_ids)] = row_ids
                mark[row, : len(row_ids)] = row_mark
                kind[row], distance[row] = turn.kind, turn.distance
        order = np.argsort(size, kind="stable")
        order_enc = np.argsort(size[: phase.rows_enc], kind="stable")
        for rows in (order, order_enc):
            for length, _, last in phase.cuts(len(rows)):
                if last and size[rows[last - 1]] > length:
                    return None
        return Batch(ids, mark, kind, distance, order, order_enc)


class Workers:
    """Processes that make batches of one phase ahead of time; iterate for batches in order."""

    def __init__(self, source, phase, first, count, ahead=4):
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(ahead) for _ in range(count)]
        self.next, self.held = 0, None
        self.processes = [
            context.Process(target=self._run, args=(source, phase, first + w, count, q), daemon=True)
            for w, q in enumerate(self.queues)
        ]
        for process in self.processes:
            process.start()

    @staticmethod
    def _run(source, phase, i, step, out):
        while True:
            try:
                out.put(source.batch(phase, i))
            except Exception as error:  # the trainer must hear of it
                out.put(error)
                return
            i += step

    def peek(self):
        """The batch that `get` gives next."""
        self.held = self.get()
        return self.held

    def get(self):
        if self.held is not None:
            found, self.held = self.held, None
            return found
        while True:
            try:
                found = self.queues[self.next % len(self.queues)].get(timeout=5)
                break
            except queue.Empty:
                if not all(p.is_alive() for p in self.processes):
                    raise RuntimeError("a worker that makes batches has died") from None
        self.next += 1
        if isinstance(found, Exception):
            raise found
        return found

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
