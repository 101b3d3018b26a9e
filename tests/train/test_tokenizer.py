"""The tokenizer: trained twice the same, digits alone, and our encoder equal to the library's."""

import json
import unittest

from rxt_train import tokenizer
from rxt_train.bpe import Bpe
from rxt_train.entities import Entities
from rxt_train.small_talk import CAPITALS
from tokenizers import Tokenizer

TEXTS = [*tokenizer.synthetic_text(150, 1)]
TRAINED = tokenizer.train(TEXTS, 700)
PROBES = TEXTS[::7] + [
    "I live in Zurich, at no. 4711.",
    "don't you'll we've it's I'm 's",
    "  two  spaces\tand\nlines ",
    "naïve café, 12.5% of 90",
    "a_b __init__ x=1",
    "[BOS]",
    "",
]


class Tokens(unittest.TestCase):
    def test_is_the_same_twice(self):
        self.assertEqual(TRAINED, tokenizer.train(tokenizer.synthetic_text(150, 1), 700))

    def test_special_tokens_come_first(self):
        vocab = json.loads(TRAINED)["model"]["vocab"]
        self.assertEqual([vocab[t] for t in tokenizer.SPECIAL], list(range(7)))
        self.assertEqual(len(vocab), 700)

    def test_no_token_holds_two_digits(self):
        for token in json.loads(TRAINED)["model"]["vocab"]:
            self.assertLessEqual(sum(c in "0123456789" for c in token), 1, token)

    def test_text_has_no_value(self):
        entities = Entities("train")
        text = " ".join(TEXTS)
        for name in ("city", "person_name", "pet_name"):
            free = {*CAPITALS.values(), "Nice"}  # small talk says these
            found = [v for v in entities.lists[name] if f" {v}" in text and v not in free]
            self.assertEqual(found, [])
        self.assertNotIn("\0", text)

    def test_encoder_equals_the_library(self):
        ours, theirs = Bpe(TRAINED), Tokenizer.from_str(TRAINED)
        for text in PROBES:
            if "[" not in text:
                self.assertEqual(ours.encode(text), theirs.encode(text).ids, text)
            self.assertEqual(ours.decode(ours.encode(text)), text)

    def test_special_strings_in_a_text_stay_text(self):
        bpe = Bpe(TRAINED)
        self.assertNotIn(bpe.bos, bpe.encode("[BOS]"))

    def test_spans_mark_the_tokens_of_a_value(self):
        bpe = Bpe(TRAINED)
        text = "Your name is Kavurto, I think."
        at = text.index("Kavurto")
        ids, marks = bpe.encode_spans(text, [(at, at + 7)])
        self.assertEqual(ids, bpe.encode(text))
        self.assertEqual(bpe.decode([i for i, m in zip(ids, marks) if m]), " Kavurto")


if __name__ == "__main__":
    unittest.main()
