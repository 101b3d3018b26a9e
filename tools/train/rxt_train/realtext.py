"""Real dialogues: where they come from, what is held out, and windows of n turns."""

import gzip
import hashlib
import json
import os

from .small_talk import usable_runs, usable_single

SETS = (
    "selfdialogue",
    "star",
    "fairytaleqa",
    "syntheticpersonachat",
    "meenahuman",
    "multiwoz",
    "taskmaster4",
    "stories",
    "mschitchat",
    "smalltalk-clinc",
)
SINGLES = ("mschitchat", "smalltalk-clinc")
ANYWHERE = ("selfdialogue", "syntheticpersonachat", "meenahuman")  # a window may start in the middle
QUOTED = ("selfdialogue", "syntheticpersonachat", "star", "multiwoz")  # runs between facts


def held_out(line):
    """Two in a hundred lines of every set are kept for measuring fluency."""
    return int(hashlib.md5(line.encode()).hexdigest(), 16) % 50 == 0


def read_lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as f:
        yield from f


def bench_pairs(path):
    """All (q, a) of the recall benchmark: dialogues that hold one are not trained on."""
    pairs = set()
    if os.path.exists(path):
        for line in read_lines(path):
            pairs |= {(t["q"], t["a"]) for t in json.loads(line)["turns"]}
    return pairs


class RealText:
    """dialogues[set]: lists of (q, a); singles and runs feed the small talk of the generator."""

    def __init__(self, folder, part="train"):
        quoted = bench_pairs(os.path.join(folder, "recall-bench.jsonl.gz"))
        self.dialogues = {name: [] for name in SETS}
        self.singles, self.runs, self.n_quoted = [], [], 0
        for name in SETS:
            path = os.path.join(folder, f"dialogues-{name}.jsonl.gz")
            for line in read_lines(path) if os.path.exists(path) else ():
                entry = json.loads(line)
                source = entry["source"]
                if name == "fairytaleqa":
                    test = not source.endswith("/train")
                else:
                    test = held_out(line)
                if test != (part != "train"):
                    continue
                pairs = [(t["q"], t["a"]) for t in entry["turns"]]
                if any(p in quoted for p in pairs):
                    self.n_quoted += 1
                    continue
                if name in SINGLES and not usable_single(*pairs[0], source):
                    continue
                self.dialogues[name].append(pairs)
                if name in SINGLES:
                    self.singles += pairs
                elif name in QUOTED:
                    short = [(q, a) for q, a in pairs if len(q) + len(a) < 160]
                    self.runs += usable_runs(short)

    def window(self, name, n, random):
        """n turns of a set: from its start or anywhere, another dialogue where one is too short."""
        pairs = []
        dialogues = self.dialogues[name]
        while len(pairs) < n:
            found = dialogues[int(random.random() * len(dialogues))]
            first = 0
            if name in ANYWHERE and len(found) > n:
                first = random.randrange(len(found) - n + 1)
            elif name == "fairytaleqa":
                texts = [i for i, (q, _) in enumerate(found) if len(q) > 200]
                after_question = [i for i in texts if i == 0 or len(found[i - 1][0]) <= 200]
                first = random.choice(after_question or [0])
            pairs += found[first : first + n - len(pairs)]
        return pairs
