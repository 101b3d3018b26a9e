"""Puts tokenizer, real text and generator together."""

import os
import re
from collections import Counter

from .batches import Source
from .bpe import Bpe
from .dialogue import Generator
from .entities import Entities
from .realtext import SETS, RealText
from .small_talk import SmallTalk
from .world import Templates


def make_tokenizer(plan, real, path):
    """Reads tokenizer.json, or trains it from the real text and generated dialogues."""
    if not os.path.exists(path):
        from . import tokenizer

        def texts():
            for name in SETS:
                for pairs in real.dialogues[name] if real else ():
                    for q, a in pairs:
                        yield q
                        yield a
            yield from tokenizer.synthetic_text(plan["data"]["tokenizer_dialogues"], 1)

        text = tokenizer.train(texts(), plan["model"]["vocab"])
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    return Bpe.load(path)


def words_of(real):
    """How often each lower-case word of the real text occurs."""
    words = Counter()
    for dialogues in real.dialogues.values():
        for pairs in dialogues:
            for q, a in pairs:
                words.update(w.strip(".,!?\"'") for w in (q + " " + a).lower().split())
    return words


def names_of(real):
    """Words that are written with a capital within a sentence more often than without."""
    capital, small = Counter(), Counter()
    for dialogues in real.dialogues.values():
        for pairs in dialogues:
            text = " ".join(x for pair in pairs for x in pair)
            capital.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,11}\b", text))
            small.update(re.findall(r"\b[a-z]{3,12}\b", text))
    return sorted(w for w, n in capital.items() if n >= 2 and n > small[w.lower()])


def pieces_of(bpe):
    """(starts, rests): the lower-case letters of pieces that begin a word, and of those within."""
    words = [t for t in bpe.vocab if re.fullmatch("\u0120?[a-z]+", t)]
    starts = [t[1:] for t in words if t[0] == "\u0120"]
    return tuple(starts), tuple(t for t in words if t[0] != "\u0120")


def make_source(plan, seed, data, bpe):
    """The Source of a run. data: folder of the text or None; bpe: function of the real text."""
    real = RealText(data) if data else None
    words = words_of(real) if real else Counter()
    # ordinary words, but not the few hundred that hold sentences together
    common = {w for w, _ in words.most_common(400)}
    borrowed = [w for w, n in words.items() if n >= 2 and w not in common]
    borrowed = [w for w in borrowed if w.isascii() and w.isalpha() and 3 <= len(w) <= 10]
    bpe = bpe(real)
    names = names_of(real) if real else ()
    entities = Entities("train", frozenset(words), borrowed, names, pieces_of(bpe))
    talk = SmallTalk(entities, real.singles, real.runs) if real else SmallTalk(entities)
    stray = plan["data"].get("stray", 0.0)
    generator = Generator(Templates("train", wide=True), entities, talk, stray)
    return Source(bpe, generator, real, seed)
