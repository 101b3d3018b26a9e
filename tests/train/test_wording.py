"""The wordings of training: many, complete, and none of those kept for tests or for tuning."""

import random
import re
import unittest

from rxt_train.dialogue import PROFILES, Generator
from rxt_train.entities import Entities, read_json
from rxt_train.small_talk import SmallTalk
from rxt_train.wording import FORMS, Wording, normal, surface
from rxt_train.world import ASK, FIX, TELL, Templates

BANK = read_json("templates.json")["attributes"]
MORE = read_json("wordings.json")
WIDE = Templates("train", wide=True)


# What training must not show, of whatever attribute.
TEST = {surface(x) for e in BANK.values() for form in FORMS for x in e[form]["test"]}
KNOWN = {surface(x) for e in BANK.values() for form in FORMS for x in e[form]["train"]}
VALID = {
    surface(x) for e in MORE["attributes"].values() for form in e["valid"] for x in e["valid"][form]
}


def generator():
    entities = Entities("train")
    return Generator(WIDE, entities, SmallTalk(entities))


class Lists(unittest.TestCase):
    def test_normal_form(self):
        self.assertEqual(normal("What's my name?"), "whats my name")
        self.assertEqual(normal("Hi, I AM {v}!"), normal("hi i am {v}"))
        self.assertNotEqual(normal("I am {v}."), normal("I am {k}."))

    def test_no_training_wording_is_kept_for_tests_or_tuning(self):
        own = {
            surface(x)
            for entry in MORE["attributes"].values()
            for form in ("clause", *FORMS)
            for x in entry[form]
        }
        self.assertEqual(len(own & VALID), 0)
        self.assertEqual(len((own - KNOWN) & TEST), 0)
        self.assertEqual(len(VALID & (TEST | KNOWN)), 0)

    def test_no_frame_builds_one(self):
        rng = random.Random(1)
        for name in BANK:
            for form in FORMS:
                drawn = {surface(WIDE.draw(name, form, rng)) for _ in range(600)}
                self.assertEqual(len((drawn - KNOWN) & (TEST | VALID)), 0, (name, form))

    def test_a_kept_wording_is_drawn_anew(self):
        wording, rng = Wording(), random.Random(1)
        plain = {surface(x) for x in BANK["city"]["say"]["train"]}
        seen = {surface(wording.say("city", WIDE.attributes["city"], rng)) for _ in range(500)} - plain
        wording.held = seen
        later = {surface(wording.say("city", WIDE.attributes["city"], rng)) for _ in range(500)}
        self.assertEqual(len(later & seen), 0)

    def test_places(self):
        """A statement names its value, a keyed sentence its key, and nothing else is open."""
        rng = random.Random(2)
        for name, entry in BANK.items():
            key = {"k"} if entry["key"] else set()
            for form, need in (("say", {"v"}), ("ask", set()), ("fix", {"v"})):
                for _ in range(300):
                    text = WIDE.draw(name, form, rng)
                    places = set(re.findall(r"\{(.*?)\}", text))
                    if (name, form) == ("shopping", "fix"):
                        self.assertEqual(places, {"w"}, text)
                        continue
                    self.assertLessEqual(places, need | key | ({"o"} if form == "fix" else set()), text)
                    self.assertLessEqual(need | key, places | ({"k"} if form == "fix" else set()), text)

    def test_there_are_many(self):
        rng = random.Random(3)
        for name in BANK:
            for form, least in (("say", 150), ("ask", 120)):
                drawn = {normal(WIDE.draw(name, form, rng)) for _ in range(600)}
                self.assertGreater(len(drawn), least, (name, form))

    def test_a_benchmark_of_valid_values_has_kept_wordings(self):
        self.assertNotEqual(Templates("valid").attributes["city"]["say"], BANK["city"]["say"]["test"])
        self.assertEqual(Templates("valid").attributes["city"]["say"],
                         MORE["attributes"]["city"]["valid"]["say"])
        self.assertEqual(Templates("train").attributes["city"]["say"], BANK["city"]["say"]["train"])


class Dialogues(unittest.TestCase):
    def test_answers_follow_from_the_text(self):
        """The value of every answer was in what the user said before."""
        g, rng, checked = generator(), random.Random(5), 0
        for profile, n in (("keys", 12), ("dense", 6), ("natural", 24)):
            for _ in range(60):
                said = ""
                for turn in g.dialogue(PROFILES[profile], n, rng):
                    if turn.kind == ASK and turn.spans and turn.attribute != "shopping":
                        first, last = turn.spans[0]
                        self.assertIn(turn.a[first:last].lower(), said, turn.q)
                        checked += 1
                    if turn.kind in (TELL, FIX):
                        said += " " + turn.q.lower()
        self.assertGreater(checked, 700)

    def test_keys_of_one_attribute_are_told_apart(self):
        """Most windows of 12 ask for two keys or more of one attribute and give other values."""
        g, rng, many = generator(), random.Random(6), 0
        for _ in range(200):
            answers = {}
            for turn in g.dialogue(PROFILES["keys"], 12, rng):
                if turn.kind == ASK and turn.spans:
                    first, last = turn.spans[0]
                    answers.setdefault(turn.attribute, set()).add(turn.a[first:last].lower())
            many += max((len(x) for x in answers.values()), default=0) >= 2
        self.assertGreater(many, 140)

    def test_some_users_write_no_capitals(self):
        g, rng = generator(), random.Random(7)
        found = [g.dialogue(PROFILES["dense"], 6, rng) for _ in range(1000)]
        small = [d for d in found if all(t.q == t.q.lower() for t in d)]
        self.assertAlmostEqual(len(small) / len(found), 0.12, delta=0.04)
        self.assertTrue(any("i " in t.q for d in small for t in d))
        self.assertFalse(any(t.a[0].islower() for d in small for t in d))


if __name__ == "__main__":
    unittest.main()
