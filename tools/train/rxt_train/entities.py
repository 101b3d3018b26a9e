"""Values that users tell: entity lists, numbers and invented words, each split for good into
train, valid and test, so that a model is never asked in a test for a value it was trained on."""

import hashlib
import json
import os

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data")
ONSETS = (
    "b d f g h j k l m n p r s t v w z br dr kr tr bl cl fl gr pl st sh th".split()
)
VOWELS = "a e i o u ai ee oo ou".split()
CODAS = ["", "n", "l", "r", "s", "x", "k", "ck", "nd", "m", "rt"]
SYLLABLES = (1, 2, 2, 2, 3)


def split_of_word(word):
    """An invented word belongs to a split by its hash."""
    digit = int(hashlib.md5(word.lower().encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "valid"}.get(digit, "train")


def split_of_number(n):
    digit = n * 7919 % 10
    return {0: "test", 1: "valid"}.get(digit, "train")


def read_json(name):
    with open(os.path.join(DATA, name), encoding="utf-8") as f:
        return json.load(f)


CAPITALISED = ("person_name", "pet_name", "city", "country", "language")
MODIFIERS = {  # "my older sister" beside "my younger sister"
    "relation": "older younger best new old former favorite".split(),
    "pet_kind": "little old big young black white brown new".split(),
    "object": "old new spare big small work travel other winter school".split(),
}
TWO_WORDS = ("food", "drink", "hobby", "event", "item", "city", "country")


class Entities:
    """Draws values of a split. rejected: lower-case words an invented word must not be.

    Most lists are short, and a model that only ever hears their training values learns to choose
    among them instead of to copy what it was told. So most values of open lists are fresh, from
    three sources beside the lists; none of them gives a value of another split:
    - invented words;
    - borrowed: ordinary words and, where a kind is capitalised, names of the real text;
    - pieces (starts, rests): pieces of the tokenizer in random order, so that every piece is copied
      equally often.
    """

    def __init__(self, split, rejected=frozenset(), borrowed=(), names=(), pieces=((), ())):
        if split not in ("train", "valid", "test"):
            raise ValueError(f"no split {split!r}")
        self.split, self.rejected = split, rejected
        lists = read_json("entities.json")["lists"]
        self.lists = {name: x["all"] if x["closed"] else x[split] for name, x in lists.items()}
        self.open = {name for name, x in lists.items() if not x["closed"]}
        known = {v.lower() for x in lists.values() for key in x if key != "closed" for v in x[key]}
        self.known = {word for value in known for word in value.split()}
        self.borrowed = sorted(w for w in borrowed if w.lower() not in self.known)
        self.names = sorted(w for w in names if w.lower() not in self.known)
        self.starts, self.rests = pieces
        events = [v.split() for v in lists["event"]["train"]]
        self.heads = sorted({words[-1] for words in events if len(words) == 2})

    def draw(self, name, random):
        values = self.lists[name]
        return values[int(random.random() * len(values))]

    def number(self, low, high, random):
        """Ages are small numbers everybody says: they are not split."""
        while True:
            n = random.randint(low, high)
            if high < 100 or split_of_number(n) == self.split:
                return str(n)

    def invent(self, random):
        """A lower-case invented word of this split."""
        while True:
            word = "".join(
                random.choice(ONSETS) + random.choice(VOWELS)
                for _ in range(random.choice(SYLLABLES))
            )
            word += random.choice(CODAS)
            if len(word) < 3 or split_of_word(word) != self.split:
                continue
            if word not in self.rejected and word not in self.known:
                return word

    def compose(self, random):
        """A word of one to five random pieces of the tokenizer."""
        while True:
            count = random.choice((1, 2, 2, 2, 3, 3, 4, 5))
            word = random.choice(self.starts)
            word += "".join([random.choice(self.rests) for _ in range(count - 1)])
            if 2 <= len(word) <= 14 and word not in self.known and split_of_word(word) == self.split:
                return word

    def fresh(self, random, capital=False):
        """A word that is no value of a list."""
        x = random.random()
        if self.starts and x < 0.4:
            word = self.compose(random)
        elif self.borrowed and x < 0.75:
            pool = self.names if capital and self.names and random.random() < 0.6 else self.borrowed
            word = random.choice(pool)
        else:
            word = self.invent(random)
        return word.capitalize() if capital else word

    def other_key(self, kind, random):
        """A key beside the closed lists, or None where the kind has open keys anyway: keys are to
        be matched with the question, not known."""
        if kind not in MODIFIERS:
            return None
        x = random.random()
        if x < 0.6:
            return random.choice(MODIFIERS[kind]) + " " + self.draw(kind, random)
        return self.fresh(random)

    def value(self, kind, random, invented=0.0):
        """A value of a template's kind; invented: share of fresh words in open lists."""
        if kind in self.open and random.random() < invented:
            capital = kind in CAPITALISED
            word = self.fresh(random, capital)
            if kind == "event" and random.random() < 0.6:
                return word + " " + random.choice(self.heads)
            if kind in TWO_WORDS and random.random() < 0.2:
                word += " " + self.fresh(random, capital)
            return word
        if kind == "nonce":
            fresh = random.random() < 0.5 * invented
            return self.fresh(random) if fresh else self.invent(random)
        if kind == "nonce_def":
            color = self.value("color", random, invented)
            return " ".join((color, self.draw("material", random), self.draw("object", random)))
        if kind.startswith("num:"):
            low, high = kind[4:].split("-")
            return self.number(int(low), int(high), random)
        if kind.startswith("set:"):
            count, items = random.randint(2, 4), []
            while len(items) < count:
                item = self.value(kind[4:], random, invented)
                if item not in items:
                    items.append(item)
            return join(items)
        return self.draw(kind, random)


def join(items):
    """["tea", "sugar", "milk"] -> "tea, sugar and milk"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
