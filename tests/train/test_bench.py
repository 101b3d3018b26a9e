"""The benchmark: items are answerable from their text, and scoring sees right and wrong."""

import random
import re
import unittest

from rxt_train import bench

ITEMS = bench.Builder("valid").build(3, 1)


class Scoring(unittest.TestCase):
    ITEM = {"gold": ["Ann"], "match": "all", "wrong": ["Bob"], "set": "B", "k": 1}

    def test_word_borders_and_case(self):
        self.assertTrue(bench.right(self.ITEM, "your name is ann."))
        self.assertFalse(bench.right(self.ITEM, "Your name is Anna."))
        self.assertFalse(bench.right(self.ITEM, "Ann, not Bob."))

    def test_any_and_all(self):
        two = {**self.ITEM, "gold": ["tea", "milk"], "wrong": []}
        self.assertFalse(bench.right(two, "You need tea."))
        self.assertTrue(bench.right({**two, "match": "any"}, "You need tea."))

    def test_wilson(self):
        low, high = bench.wilson(116, 122)
        self.assertEqual((round(low, 2), round(high, 2)), (0.90, 0.98))

    def test_tally_counts_every_item_once_a_key(self):
        t = bench.tally(ITEMS, [x["sample_answer"] for x in ITEMS])
        self.assertEqual(t["all", "all"], (len(ITEMS), len(ITEMS)))
        self.assertEqual(t["E", 8], (3, 3))
        self.assertIn("| B | 100 (3/3) |", bench.table(ITEMS, [x["sample_answer"] for x in ITEMS]))


class Items(unittest.TestCase):
    def test_cells_are_full(self):
        self.assertEqual(len(ITEMS), 7 * 7 * 3)

    def test_fact_lies_k_turns_back(self):
        for item in ITEMS:
            if item["set"] == "F":
                continue
            at = len(item["turns"]) - item["k"]
            told = item["turns"][at]["q"].lower()
            if item["attr"] == "shopping" and item["set"] == "D":
                continue
            for gold in item["gold"]:
                self.assertIn(gold.lower(), told, item)

    def test_untold_is_untold(self):
        for item in ITEMS:
            if item["set"] == "F":
                self.assertFalse(bench.right(item, f"It is {item['wrong'][0]}."))

    def test_untold_is_not_told_after_the_draw_either(self):
        """An attribute without a key is not among those that the two statements are about."""
        builder, rng, checked = bench.Builder("valid"), random.Random(2), 0
        says = {a: [re.escape(t.split("{")[0]) for t in e["say"] if len(t.split("{")[0]) > 8]
                for a, e in builder.known.attributes.items() if not e["key"]}
        del says["language"]  # "I am learning to play the piano." begins like one of its own
        for _ in range(400):
            item = builder.item("F", 4, rng)
            if item and item["attr"] in says:
                for pattern in says[item["attr"]]:
                    checked += 1
                    self.assertFalse(any(re.match(pattern, t["q"]) for t in item["turns"]),
                                     (item["attr"], item["turns"]))
        self.assertGreater(checked, 500)

    def test_same_seed_same_items(self):
        self.assertEqual(bench.Builder("valid").build(1, 1), bench.Builder("valid").build(1, 1))


if __name__ == "__main__":
    unittest.main()
