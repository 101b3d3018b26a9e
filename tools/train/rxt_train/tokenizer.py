"""Trains the byte-level BPE of a model with the `tokenizers` library.

Digits stay single: training splits them off, the written file has the plain ByteLevel
pre-tokeniser, and as no merge holds a digit both give the same ids. Values of entities are cut out
of the generated text, or train values would earn merges that test values do not have.
"""

import json
import random
import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .dialogue import PROFILES, Generator
from .entities import Entities
from .small_talk import SmallTalk
from .world import Templates

SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]", "[Q]", "[A]"]


class CutEntities(Entities):
    """Every value is a mark that `cut` removes."""

    def draw(self, name, random):
        return f"\0{random.randrange(10**9)}\0"

    def value(self, kind, random, invented=0.0):
        return self.draw(kind, random)


def cut(text):
    return re.sub(" +", " ", re.sub("\0\\d+\0", "", text)).strip()


def synthetic_text(n_dialogues, seed):
    """Generated dialogues without their values."""
    rng = random.Random(f"tokenizer {seed}")
    entities = CutEntities("train")
    generator = Generator(Templates("train"), entities, SmallTalk(entities))
    for _ in range(n_dialogues):
        for turn in generator.dialogue(PROFILES["natural"], 16, rng):
            yield cut(turn.q)
            yield cut(turn.a)


def train(texts, n_vocab):
    """tokenizer.json, as a string."""
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = plain
    tokenizer.decoder = decoders.ByteLevel()
    data = json.loads(tokenizer.to_str())
    merged = [m for m in data["model"]["merges"] if any(c.isdigit() for c in "".join(m))]
    if merged:
        raise ValueError(f"tokenizer: merges with digits: {merged[:3]}")
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
