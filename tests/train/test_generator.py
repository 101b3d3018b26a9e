"""The generator: a reader that knows only the sentences answers every question, splits hold, and
the shares of turns are the ones the README states."""

import random
import re
import unittest
from collections import Counter
from dataclasses import replace

from rxt_train.dialogue import PROFILES, Generator
from rxt_train.entities import Entities, read_json, split_of_number, split_of_word
from rxt_train.small_talk import SmallTalk
from rxt_train.world import ASK, CHAT, FIX, KIN, KINDS, TELL, TWIN, UNTOLD, Style, Templates, World

SHARES = {  # per cent: tell, ask, untold, fix (README.md, "Dialogues")
    ("dense", 3): (43, 41, 6, 3),
    ("dense", 6): (36, 38, 7, 6),
    ("middle", 12): (26, 35, 4, 3),
    ("natural", 24): (17, 24, 6, 3),
    ("natural", 48): (11, 19, 6, 4),
    ("keys", 6): (43, 34, 5, 3),
    ("keys", 12): (26, 40, 6, 5),
    ("keys", 24): (13, 32, 6, 7),
    ("exam", 6): (33, 30, 12, 7),
    ("exam", 12): (29, 26, 11, 7),
    ("exam", 24): (26, 27, 11, 6),
    ("exam", 48): (15, 25, 11, 4),
    ("exam", 72): (10, 23, 11, 3),
    ("refuse", 12): (28, 24, 19, 5),
    ("refuse", 24): (24, 22, 18, 4),
    ("refuse", 72): (10, 20, 16, 2),
}


def generator(split="train", wording="train", stray=0.0):
    entities = Entities(split)
    return Generator(Templates(wording), entities, SmallTalk(entities), stray)


def dialogues(name, n, count, seed=1, noise=1.0):
    g, rng, profile = generator(), random.Random(seed), PROFILES[name]
    profile = replace(profile, style=replace(profile.style, noise=noise))
    return [g.dialogue(profile, n, rng) for _ in range(count)]


class Reader:
    """Finds facts in sentences with expressions made from the templates; shares no code with
    the generator."""

    def __init__(self):
        self.bank = read_json("templates.json")["attributes"]
        self.ask = [(a, self.pattern(x)) for a, e in self.bank.items() for x in e["ask"]["train"]]
        self.told = [
            (a, self.pattern(x))
            for a, e in self.bank.items()
            for x in e["say"]["train"] + e["fix"]["train"]
        ]

    @staticmethod
    def pattern(template):
        out, seen = "", set()
        for part in re.split(r"(\{[a-z]\})", template.rstrip(".!?")):
            if re.fullmatch(r"\{[a-z]\}", part):
                out += f"(?P={part[1]})" if part[1] in seen else f"(?P<{part[1]}>.+?)"
                seen.add(part[1])
            else:
                out += re.escape(part)
        return re.compile(out + r"[.!?]?$", re.IGNORECASE)

    def question(self, text):
        """(attribute, key) pairs a question may be about."""
        for prefix in {"", *read_json("templates.json")["prefix"]["train"]}:
            if text.startswith(prefix):
                rest = text[len(prefix) :]
                for attribute, pattern in self.ask:
                    found = pattern.match(rest)
                    if found:
                        yield attribute, found.groupdict().get("k", "").lower()

    def values(self, text, attribute, key):
        """Values a user's text states for (attribute, key)."""
        parts = re.split(r"(?<=[.!?]) ", text)
        spans = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
        for sentence in (" ".join(parts[i:j]) for i, j in spans):
            for name, pattern in self.told:
                found = pattern.match(sentence) if name == attribute else None
                if found and found.groupdict().get("k", key).lower() == key:
                    yield (found.groupdict().get("v") or found.groupdict().get("w")).lower()


class Replay(unittest.TestCase):
    def test_every_answer_follows_from_the_text(self):
        reader, checked = Reader(), 0
        for turns in dialogues("natural", 24, 12, noise=0) + dialogues("dense", 6, 40, noise=0):
            for at, turn in enumerate(turns):
                if turn.kind != ASK or not turn.spans or turn.attribute == "shopping":
                    continue
                first, last = turn.spans[0]
                value = turn.a[first:last].lower()
                keys = {k for a, k in reader.question(turn.q) if a == turn.attribute}
                stated = [
                    {v.rstrip(".!?") for key in keys for v in reader.values(before.q, turn.attribute, key)}
                    for before in turns[:at]
                    if before.kind in (TELL, FIX)
                ]
                stated = [values for values in stated if values]
                if stated:  # a mirrored fact has other sentences
                    checked += 1
                    self.assertIn(value, stated[-1], (turn.q, turn.a))
        self.assertGreater(checked, 60)

    def test_refusals_are_honest(self):
        refusals = ("not told", "do not know", "did not say", "not sure")
        for turns in dialogues("dense", 6, 100):
            for turn in turns:
                refused = any(r in turn.a for r in refusals)
                if turn.kind in (TELL, ASK, UNTOLD, FIX):
                    self.assertEqual(turn.kind == UNTOLD, refused, (turn.q, turn.a))

    def test_what_is_refused_was_not_told(self):
        """And much of it is a near miss: another's value was heard, the key has another attribute,
        or a value that is alike was told."""
        reader = Reader()
        for profile, n, least in (("exam", 24, 0.1), ("refuse", 24, 0.3)):
            near, checked = 0, 0
            for turns in dialogues(profile, n, 40, noise=0):
                for at, turn in enumerate(turns):
                    if turn.kind != UNTOLD:
                        continue
                    checked += 1
                    before = [t for t in turns[:at] if t.kind in (TELL, FIX)]
                    told = [t.q for t in before]
                    close = any(t.attribute in KIN.get(turn.attribute, ()) for t in before)
                    for attribute, key in reader.question(turn.q):
                        if attribute == turn.attribute:
                            stated = [v for q in told for v in reader.values(q, attribute, key)]
                            stated = [v for v in stated if not v.startswith("in ")]  # no color
                            self.assertEqual(stated, [], (turn.q, told))
                            other = [v for q in told for v in reader.values(q, TWIN.get(attribute), key)]
                            close |= bool(other)
                    near += close
            self.assertGreater(checked, 60)
            self.assertGreater(near, least * checked, profile)

    def test_what_was_refused_may_be_told_later(self):
        """And is then answered, so that a refusal does not stick."""
        single = {a for a, e in read_json("templates.json")["attributes"].items() if not e["key"]}
        told = {}
        for name in ("exam", "refuse"):
            told[name], answered = 0, 0
            for turns in dialogues(name, 48, 150, noise=0):
                refused = set()
                for turn in turns:
                    if turn.kind == UNTOLD:
                        refused.add(turn.attribute)
                    elif turn.attribute in refused & single:
                        told[name] += turn.kind == TELL
                        answered += turn.kind == ASK
        self.assertGreater(told["refuse"], 2 * told["exam"])
        self.assertGreater(answered, 20)

    def test_spans_hold_values(self):
        for turns in dialogues("middle", 12, 40):
            for turn in turns:
                for first, last in turn.spans:
                    self.assertTrue(0 <= first < last <= len(turn.a))
                    self.assertNotIn("{", turn.a)


class Splits(unittest.TestCase):
    def test_training_never_shows_other_splits(self):
        lists = read_json("entities.json")["lists"]
        own = {v.lower() for x in lists.values() for v in x.get("train", x.get("all", []))}
        foreign = set()
        for name in ("person_name", "city", "pet_name", "country"):
            for part in ("valid", "test"):
                foreign |= {v.lower() for v in lists[name][part]} - own
        foreign.discard("lucky")  # a pet, and a word of "my lucky number"
        words = Counter()
        for turns in dialogues("dense", 6, 300):
            for turn in turns:
                if turn.kind != CHAT:
                    words.update(re.findall(r"[a-z]+", (turn.q + " " + turn.a).lower()))
        self.assertEqual([w for w in foreign if words[w]], [])

    def test_what_others_like_has_wordings_of_its_own_for_tuning(self):
        bank, seen = read_json("others.json"), {}
        entries = [bank["favorite"], *bank["attributes"].values()]
        for part in ("train", "valid"):
            seen[part] = {x for e in entries for x in e[part]}
            for template in seen[part]:
                places = set(re.findall(r"\{(.)\}", template))
                self.assertLessEqual(places, set("rvkn"), template)
                self.assertIn("v", places, template)
        self.assertFalse(seen["train"] & seen["valid"])
        for split, part in (("train", "train"), ("valid", "valid"), ("test", "valid")):
            talk = SmallTalk(Entities(split))
            self.assertEqual({*talk.favorite, *(x for e in talk.others.values() for x in e)}, seen[part])

    def test_what_others_like_was_not_told_by_the_user(self):
        rng = random.Random(4)
        entities = Entities("train")
        world, talk = World(Templates("train"), entities, Style(noise=0.0), rng), SmallTalk(entities)
        for _ in range(300):
            text, _ = talk.other(rng, world)
            self.assertNotIn("{", text)
        self.assertEqual(world.facts, {})
        self.assertTrue({("fav_season", ""), ("job", ""), ("instrument", "")} <= world.heard)
        for attribute, key in world.heard:
            self.assertEqual(bool(key), bool(world.t.attributes[attribute]["key"]))

    def test_test_wording_stays_out(self):
        bank = read_json("templates.json")["attributes"]
        tests = [x for e in bank.values() for f in ("say", "ask") for x in e[f]["test"]]
        heads = [t.split("{")[0] for t in tests if len(t.split("{")[0]) > 12]
        for turns in dialogues("dense", 6, 200):
            for turn in turns:
                for head in heads:
                    self.assertFalse(turn.kind == TELL and turn.q.startswith(head), (head, turn.q))

    def test_words_and_numbers_keep_to_their_split(self):
        rng = random.Random(3)
        for split in ("train", "valid", "test"):
            entities = Entities(split)
            for _ in range(50):
                self.assertEqual(split_of_word(entities.invent(rng)), split)
                self.assertEqual(split_of_number(int(entities.number(10, 999, rng))), split)
        self.assertEqual(split_of_number(120), "test")

    def test_any_open_value_may_be_fresh(self):
        rng = random.Random(3)
        lists = read_json("entities.json")["lists"]
        test_sport = lists["sport"]["test"][0]
        pieces = (("lan", test_sport), ("tern", "s"))
        entities = Entities("train", borrowed=["lantern", test_sport], names=["Zebulon"], pieces=pieces)
        values = {entities.value("sport", rng, 0.5) for _ in range(600)}
        self.assertIn("lantern", values)  # borrowed
        self.assertIn("lans", values)  # of pieces
        self.assertNotIn(test_sport, values)  # a test value neither way
        new = values - set(lists["sport"]["train"]) - {"lantern"}
        self.assertGreater(len(new), 50)
        self.assertTrue(all(split_of_word(w) == "train" for w in new))
        self.assertIn("Zebulon", {entities.value("person_name", rng, 0.9) for _ in range(100)})
        days = {entities.value("day", rng, 1.0) for _ in range(60)}
        self.assertLessEqual(days, set(lists["day"]["all"]))  # closed lists stay closed

    def test_lists_and_definitions_hold_fresh_values_too(self):
        rng = random.Random(3)
        entities, lists = Entities("train"), read_json("entities.json")["lists"]
        known = set(lists["item"]["train"]) | set(lists["color"]["train"])
        items = {x for _ in range(50) for x in re.split(", | and ", entities.value("set:item", rng, 0.8))}
        self.assertGreater(len(items - known), 20)
        colors = {entities.value("nonce_def", rng, 0.8).split()[0] for _ in range(50)}
        self.assertGreater(len(colors - known), 20)

    def test_rejected_words_are_not_invented(self):
        rng = random.Random(3)
        first = Entities("train").invent(random.Random(3))
        self.assertNotEqual(Entities("train", frozenset([first])).invent(rng), first)


class Profiles(unittest.TestCase):
    def test_shares(self):
        for (name, n), want in SHARES.items():
            kinds = Counter(t.kind for d in dialogues(name, n, 3000 // n) for t in d)
            total = sum(kinds.values())
            for kind, share in zip((TELL, ASK, UNTOLD, FIX), want):
                self.assertAlmostEqual(100 * kinds[kind] / total, share, delta=3.5,
                                       msg=f"{name} {n} {KINDS[kind]}")

    def test_an_exam_asks_after_a_silence(self):
        far = {}
        for name in ("exam", "natural"):
            asked = [t.distance for d in dialogues(name, 48, 60) for t in d if t.kind == ASK]
            far[name] = sum(x > 16 for x in asked) / len(asked)
        self.assertGreater(far["exam"], 0.35)
        self.assertLess(far["natural"], 0.3)

    def test_stray_answers(self):
        """Some small talk gets an answer to something else, less of what is told, no question."""
        g, rng = generator(stray=0.4), random.Random(8)
        turns = [t for _ in range(60) for t in g.dialogue(PROFILES["exam"], 24, rng)]
        for kinds, share in (((CHAT,), 0.4), ((TELL, FIX), 0.2), ((ASK, UNTOLD), 0.0)):
            found = [t.stray for t in turns if t.kind in kinds]
            self.assertAlmostEqual(sum(found) / len(found), share, delta=0.06)
        self.assertTrue(all(not t.spans for t in turns if t.stray))

    def test_length_and_last_question(self):
        for name, n in (("dense", 3), ("middle", 12), ("natural", 64), ("exam", 6), ("exam", 72), ("refuse", 72)):
            for turns in dialogues(name, n, 30):
                self.assertEqual(len(turns), n)
        for name, n in (("dense", 3), ("exam", 12)):
            self.assertTrue(all(d[-1].kind in (ASK, UNTOLD) for d in dialogues(name, n, 50)))

    def test_same_seed_same_text(self):
        for name in ("natural", "exam"):
            self.assertEqual(dialogues(name, 24, 3, 7), dialogues(name, 24, 3, 7))
        self.assertNotEqual(dialogues("natural", 24, 3, 7), dialogues("natural", 24, 3, 8))


if __name__ == "__main__":
    unittest.main()
