"""The recall benchmark: building one, scoring answers, and the table with its intervals.

An item is a JSON object: id, set, k, attr, n_facts, turns [{q, a}], ask, gold, match, wrong,
chance, sample_answer. k = 1 asks in the very next turn. Sets: A values and wording of training,
B held-out values, C held-out wording too, D corrected, E three keys of one attribute, F never
told, G eight facts alive.
"""

import gzip
import json
import math
import random
import re

from .entities import Entities
from .small_talk import SmallTalk
from .world import TELL, Style, Templates, Turn, World, fill

SETS = "ABCDEFG"
GAPS = (1, 2, 4, 8, 16, 32, 64)
REFUSALS = ("not told", "do not know", "did not say", "not sure")
KEYED = ("pet", "person", "event_day", "event_time", "where", "owned_color", "nonce_def")


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def occurs(text, answer):
    return re.search(r"(?<!\w)" + re.escape(text.lower()) + r"(?!\w)", answer.lower()) is not None


def right(item, answer):
    """Every gold string (F: any) on word boundaries, ignoring case, and none of wrong."""
    found = [occurs(g, answer) for g in item["gold"]]
    good = any(found) if item["match"] == "any" else all(found)
    return good and not any(occurs(w, answer) for w in item["wrong"])


def wilson(n_right, n):
    """95 % interval of a share."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, n_right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


def tally(items, answers):
    """{(set, k): (right, all)} with 'all' for every set, k and both."""
    out = {}
    for item, answer in zip(items, answers):
        good = right(item, answer)
        for key in ((item["set"], item["k"]), (item["set"], "all"), ("all", item["k"])):
            a, b = out.get(key, (0, 0))
            out[key] = (a + good, b + 1)
        a, b = out.get(("all", "all"), (0, 0))
        out["all", "all"] = (a + good, b + 1)
    return out


LINES = (  # name, sets, gaps, least share
    ("B, k 1 to 8", "B", (1, 2, 4, 8), 0.95),
    ("B, k 32", "B", (32,), 0.85),
    ("D, k 4", "D", (4,), 0.90),
    ("E, k 8", "E", (8,), 0.85),
    ("F, all k", "F", GAPS, 0.95),
    ("G, k 8", "G", (8,), 0.75),
)


def table(items, answers):
    """The table of a run as Markdown: per cent right per set and k, counts, and the pass lines."""
    t = tally(items, answers)
    out = ["| set | " + " | ".join(f"k={k}" for k in GAPS) + " | all | 95 % |"]
    out.append("|---" * (len(GAPS) + 3) + "|")
    for name in [*SETS, "all"]:
        if (name, "all") not in t:
            continue
        cells = []
        for k in (*GAPS, "all"):
            a, b = t.get((name, k), (0, 0))
            cells.append(f"{100 * a / b:.0f} ({a}/{b})" if b else "-")
        low, high = wilson(*t[name, "all"])
        out.append(f"| {name} | " + " | ".join(cells) + f" | {100 * low:.0f}-{100 * high:.0f} |")
    out.append("")
    for name, sets, gaps, least in LINES:
        a = sum(t.get((s, k), (0, 0))[0] for s in sets for k in gaps)
        b = sum(t.get((s, k), (0, 0))[1] for s in sets for k in gaps)
        if b:
            low, high = wilson(a, b)
            out.append(f"- {name}: {100 * a / b:.1f} % ({a} of {b}; {100 * low:.0f}-{100 * high:.0f}),"
                       f" line {100 * least:.0f} %")
    short = [(s, k) for s in "BCDEG" for k in GAPS if k <= 16]
    a, b = (sum(t.get(x, (0, 0))[i] for x in short) for i in (0, 1))
    if b:
        out.append(f"- B, C, D, E, G, k 1 to 16: {100 * a / b:.1f} % ({a} of {b})")
    return "\n".join(out)


class Builder:
    """Builds items with values of one split, as the published benchmark does with test values.
    Valid values come with wordings of wordings.json held out for tuning in set C."""

    def __init__(self, split, singles=(), runs=(), rejected=frozenset()):
        self.entities = Entities(split, rejected)
        self.train = Entities("train", rejected)
        self.talk = SmallTalk(self.entities, singles, runs)
        self.known, self.new = Templates("train"), Templates("valid" if split == "valid" else "test")
        self.style = Style(invented=0.0, echo=0.5, two_facts=0.0, after_chat=0.0, yes_no=0.0, noise=0.0)

    def item(self, name, k, rng):
        """One item of a set, or None where the draw did not fit."""
        entities = self.train if name == "A" else self.entities
        world = World(self.new if name == "C" else self.known, entities, self.style, rng)
        turns, facts = [], {"E": 3, "G": 8, "F": 2}.get(name, 1)
        near = rng.choice(KEYED) if name == "E" else None
        told = []
        while len(told) < facts:
            fact = world.new_fact(near)
            if fact is None or (near and fact[0] != near):
                return None
            if name == "D" and fact[0] in ("shopping", "pet_kind_of", "person_who"):
                return None
            told.append(fact)
            world.used |= {fact[1].lower(), fact[2].lower()}
        if len({fact[:2] for fact in told}) < facts:
            return None
        target = told[rng.randrange(len(told))] if name != "F" else None
        order = [f for f in told if f is not target]
        before = order if k <= len(order) else order[: rng.randrange(len(order) + 1)]
        after = order[len(before) :]
        for fact in before:
            self._tell(world, fact, turns)
            self._chat(world, turns, rng, 1 if rng.random() < 0.5 else 0)
        wrong = [f[2] for f in order] if name == "E" else []
        if name == "F":
            found = world.untold()
            if found is None or found in [f[:2] for f in told]:  # to be told after this one
                return None
            attribute, key = found
            wrong = [f[2] for f in told]
        else:
            self._tell(world, target, turns)
            attribute, key, value = target
            if name == "D":
                old, value = value, None
                self._chat(world, turns, rng, rng.randrange(3))
                for _ in range(20):
                    fixed = world.fix(len(turns))
                    if fixed:
                        turns.append(fixed)
                        value = world.facts[attribute, key].value
                        break
                if value in (None, old):
                    return None
                wrong = [old]
        left = k - 1
        places = sorted(rng.sample(range(left), len(after))) if len(after) <= left else None
        if places is None:
            return None
        for i in range(left):
            if i in places:
                self._tell(world, after[places.index(i)], turns)
            else:
                self._chat(world, turns, rng, 1)
        entry = world.t.attributes[attribute]
        ask, _ = fill(rng.choice(entry["ask"]), k=key)
        if name == "F":
            gold, match, sample = list(REFUSALS), "any", rng.choice(world.t.unknown)
        else:
            gold, match = [value], "all"
            if attribute == "shopping":
                gold = value.replace(" and ", ", ").split(", ")
            sample = fill(entry["ans"][0], k=key, v=value)[0]
        return {
            "set": name,
            "k": k,
            "attr": attribute,
            "n_facts": facts,
            "turns": [{"q": t.q, "a": t.a} for t in turns],
            "ask": ask,
            "gold": gold,
            "match": match,
            "wrong": wrong,
            "sample_answer": sample,
        }

    def _tell(self, world, fact, turns):
        world._know(*fact, len(turns))
        text = world.say(*fact)
        answer, _ = world.acknowledge(*fact)
        turns.append(Turn(text, answer, TELL))

    def _chat(self, world, turns, rng, count):
        while count > 0:
            found = self.talk.turns(rng, world, count)[:count]
            turns += found
            count -= len(found)

    def build(self, each, seed):
        """`each` items a cell."""
        items = []
        for name in SETS:
            for k in GAPS:
                rng, made = random.Random(f"bench {seed} {name} {k}"), 0
                while made < each:
                    item = self.item(name, k, rng)
                    if item:
                        made += 1
                        items.append({"id": f"{name}-{k:02d}-{made:03d}", **item})
        return items
