"""What a user has told so far, and the sentences that tell, correct and ask it."""

from dataclasses import dataclass, field

from .entities import join, read_json
from .wording import Wording

# The kinds of a turn, as batches carry them.
TELL, ASK, UNTOLD, FIX, CHAT, RECAP, REAL = range(7)
KINDS = ("tell", "ask", "untold", "fix", "chat", "recap", "real")

# One fact said both ways.
MIRROR = {"pet": "pet_kind_of", "person": "person_who"}
MIRROR |= {b: a for a, b in MIRROR.items()}

# Attributes of one key that tell nothing about each other.
TWIN = {"event_day": "event_time", "where": "owned_color"}
TWIN |= {b: a for a, b in TWIN.items()}

# Attributes whose values are alike: what was told of one is no answer to a question about another.
ALIKE = (
    ("user_name", "person", "pet"),
    ("pet", "pet_kind_of", "fav_animal"),
    ("fav_color", "owned_color"),
    ("fav_food", "fav_drink", "shopping"),
    ("city", "trip", "language", "where"),
    ("job", "hobby", "instrument", "fav_sport"),
    ("instrument", "language"),
    ("age", "number", "event_time"),
    ("codeword", "nonce_def"),
    ("event_day", "event_time"),
)
KIN = {a: sorted({b for group in ALIKE if a in group for b in group}) for group in ALIKE for a in group}

NEUTRAL = (
    "Okay, I will remember that.",
    "Thanks for telling me.",
    "Good to know.",
    "I see.",
    "Got it.",
    "Noted.",
    "All right, I will keep that in mind.",
    "That is good to know.",
    "Okay.",
    "Sure, I will remember.",
    "Thank you, I will keep it in mind.",
    "I will not forget it.",
    "Understood.",
    "Right, I have it.",
)

# Attributes with a key, by how often a dialogue is about several keys of one: most what is hardest.
KEYED = ("event_day",) * 4 + ("event_time",) * 4 + ("nonce_def",) * 6 + ("where",) * 2
KEYED += ("owned_color", "owned_color", "pet", "pet", "person", "person", "pet_kind_of", "person_who")


@dataclass
class Fact:
    attribute: str
    key: str
    value: str
    older: list = field(default_factory=list)  # values it had before
    turn: int = 0  # last mention


@dataclass
class Turn:
    """One interaction. spans: where values lie in the answer, [first, last) characters."""

    q: str
    a: str
    kind: int
    attribute: str = ""
    distance: int = 0
    spans: list = field(default_factory=list)
    cut: bool = False  # the answer lost its tail and [EOS]
    stray: bool = False  # the answer is to something else: to be heard, not learned


@dataclass(frozen=True)
class Style:
    """Shares of section 5.3: how facts are told and acknowledged."""

    invented: float = 0.75
    echo: float = 0.3
    two_facts: float = 0.15
    after_chat: float = 0.15
    same_attribute: float = 0.3
    yes_no: float = 0.1
    noise: float = 1.0  # 0: clean user text (benchmarks)
    small: float = 0.0  # share of dialogues whose user writes no capitals
    open_keys: float = 0.0  # share of keys of closed lists that are not from the list
    near_miss: float = 0.0  # share of untold questions that come close to what was heard
    late: float = 0.0  # share of told facts that were asked for, and refused, before


class Templates:
    """The template bank with the wording of one split. 'valid' is for tuning: sentences of
    wordings.json that are kept out of training. wide: draws from all of wordings.json besides."""

    def __init__(self, wording, wide=False):
        bank = read_json("templates.json")
        valid = read_json("wordings.json")["attributes"] if wording == "valid" else {}
        wording = "train" if valid else wording
        self.wide = Wording() if wide else None
        self.attributes = {}
        for name, entry in bank["attributes"].items():
            own = {k: v[wording] if isinstance(v, dict) else v for k, v in entry.items()}
            if valid:
                own |= {form: found for form, found in valid[name]["valid"].items() if found}
            own["ack_echo"] = [a for a in own["ack"] if "{v}" in a]
            own["ack_plain"] = [a for a in own["ack"] if "{v}" not in a]
            self.attributes[name] = own
        self.unknown = bank["unknown"]["train"]
        self.yes, self.no = bank["yes"], bank["no"]
        self.ack_fix = bank["ack_fix"]
        self.prefix = bank["prefix"][wording]
        self.recap_ask = bank["recap_ask"][wording]

    def draw(self, attribute, form, random):
        """A template of a form: 'say', 'ask' or 'fix'."""
        entry = self.attributes[attribute]
        if self.wide:
            return getattr(self.wide, form)(attribute, entry, random)
        return random.choice(entry[form])


def fill(template, **values):
    """(text, spans of {v}): a template with its values, capital first."""
    text, spans = "", []
    for i, part in enumerate(template.split("{")):
        if i == 0:
            text = part
            continue
        name, rest = part.split("}", 1)
        value = values[name]
        if not text and value[0].islower():
            value = value[0].upper() + value[1:]
        if name == "v":
            spans.append((len(text), len(text) + len(value)))
        text += value + rest
    return text, spans


class World:
    """The state of one dialogue. Every method that speaks returns a Turn."""

    def __init__(self, templates, entities, style, random):
        self.t, self.e, self.style, self.random = templates, entities, style, random
        self.facts = {}  # (attribute, key) -> Fact
        self.used = set()  # values and keys, lower case
        self.small = random.random() < style.small  # the user writes no capitals
        self.focus = ""  # attribute most facts of this dialogue are of
        self.heard = set()  # (attribute, key) somebody else's value was heard of
        self.refused = []  # (attribute, key) asked for before they were told

    # -- drawing ---------------------------------------------------------------------------------
    def alive(self):
        """Facts a question can be about."""
        return list(self.facts.values())

    def count(self):
        """Facts alive; one said both ways counts once."""
        return sum(f.attribute not in ("pet_kind_of", "person_who") for f in self.facts.values())

    def _fresh(self, kind):
        """A value not yet in this dialogue; None where a short list is used up."""
        for _ in range(20):
            value = self._drawn(kind, self.style.invented)
            if value.lower() not in self.used:
                return value
        return None

    def _drawn(self, kind, invented):
        value = self.e.value(kind, self.random, invented)
        return value.lower() if self.small and kind in self.e.open else value

    def _fresh_key(self, kind):
        if self.random.random() < self.style.open_keys:
            key = self.e.other_key(kind, self.random)
            if key and key.lower() not in self.used:
                return key
        return self._fresh(kind)

    def new_fact(self, near=None):
        """A fact not yet told, (attribute, key, value); near: an attribute to prefer."""
        names = list(self.t.attributes)
        for _ in range(50):
            name = near if near and self.random.random() < 0.9 else self.random.choice(names)
            entry = self.t.attributes[name]
            key = ""
            if entry["key"]:
                key = self._fresh_key(entry["key"])
                if name in ("event_day", "event_time", "where", "owned_color"):
                    # the day of an exam and its time may both be known: such keys may come again
                    if self.random.random() < 0.3:
                        key = self._drawn(entry["key"], 0.7 * self.style.invented)
            if key is None or (name, key) in self.facts:
                continue
            if name in MIRROR and (MIRROR[name], key) in self.facts:
                continue
            value = self._fresh(entry["value"])
            if value is None or value == key:
                continue
            if name in ("pet_kind_of", "person_who") and (MIRROR[name], value) in self.facts:
                continue
            return name, key, value
        return None

    def untold(self):
        """(attribute, key) of something never told, or None."""
        if self.style.near_miss and self.random.random() < self.style.near_miss:
            found = self._near_misses()
            if found:
                return self.random.choice(found)
        fact = self.new_fact(self._near())
        return fact and fact[:2]

    def _near_misses(self):
        """Untold, of one kind of near miss: the same key has another attribute (the day of an exam,
        not its hour), another's value was heard ("My aunt likes tea best"), or a value that is
        alike was told (the name of a brother, not of a sister; the color of a cup, not the
        favorite one)."""
        twins = [(TWIN[f.attribute], f.key) for f in self.alive() if f.attribute in TWIN]
        kinds = [[x for x in found if x not in self.facts]
                 for found in (twins, sorted(self.heard), self._kin())]
        kinds = [found for found in kinds if found]
        return self.random.choice(kinds) if kinds else []

    def _kin(self):
        """[(attribute, key)] whose value would be like a told one, or []."""
        told = [f.attribute for f in self.alive() if f.attribute in KIN]
        if not told:
            return []
        name = self.random.choice(KIN[self.random.choice(told)])
        kind = self.t.attributes[name]["key"]
        key = self._fresh_key(kind) if kind else ""
        return [] if key is None else [(name, key)]

    def _near(self):
        """An attribute to prefer, or None: several keys of one attribute must be told apart."""
        if self.focus:
            return self.focus if self.random.random() < 0.85 else None
        keyed = [f.attribute for f in self.alive() if f.key]
        if keyed and self.random.random() < self.style.same_attribute:
            return self.random.choice(keyed)
        return None

    # -- telling ---------------------------------------------------------------------------------
    def _know(self, attribute, key, value, turn):
        self.facts[attribute, key] = Fact(attribute, key, value, turn=turn)
        self.used |= {value.lower(), key.lower()}
        if attribute in MIRROR:
            mirror = MIRROR[attribute]
            self.facts[mirror, value] = Fact(mirror, value, key, turn=turn)

    def say(self, attribute, key, value):
        return fill(self.t.draw(attribute, "say", self.random), k=key, v=value)[0]

    def say_both(self, first, second):
        """Two facts in one sentence: 'my name is Ann and I live in Rome.'"""
        wide, random = self.t.wide, self.random
        parts = []
        for attribute, key, value in (first, second):
            parts.append(fill(wide.clause(attribute, random), k=key, v=value)[0])
        join = random.choice(wide.frames["join"])
        text = parts[0] + join + parts[1] + "."
        if random.random() < 0.3:
            return random.choice(wide.frames["opener_say"]) + text
        return text[0].upper() + text[1:]

    def acknowledge(self, attribute, key, value):
        """An answer to a told fact; repeats the value in style.echo of the cases."""
        entry = self.t.attributes[attribute]
        if self.random.random() < self.style.echo and entry["ack_echo"]:
            return fill(self.random.choice(entry["ack_echo"]), k=key, v=value)
        plain = entry["ack_plain"] + [self.random.choice(NEUTRAL)]
        return fill(self.random.choice(plain), k=key, v=value)

    def tell(self, turn, chat=""):
        """Tells one new fact or two; chat: small talk to put before it."""
        first = self._late() or self.new_fact(self._near())
        if first is None:
            return None
        self._know(*first, turn)
        text = self.say(*first)
        last = first
        if self.random.random() < self.style.two_facts:
            second = self.new_fact(self.focus or None)
            if second:
                self._know(*second, turn)
                if self.t.wide and self.random.random() < 0.5:
                    text = self.say_both(first, second)
                else:
                    text += " " + self.say(*second)
                last = second
        if chat and self.random.random() < self.style.after_chat:
            text = chat + " " + text
        answer, spans = self.acknowledge(*last)
        return Turn(text, answer, TELL, last[0], 0, spans)

    def _late(self):
        """A fact that was refused before, or None: what a refusal says ends when it is told."""
        if not self.refused or self.random.random() >= self.style.late:
            return None
        attribute, key = self.refused.pop()
        value = self._fresh(self.t.attributes[attribute]["value"])
        mirror = MIRROR.get(attribute), value
        if value in (None, key) or (attribute, key) in self.facts or mirror in self.facts:
            return None
        return attribute, key, value

    def fix(self, turn):
        """Corrects a known fact, at times back to an older value."""
        known = [f for f in self.alive() if f.attribute not in ("pet_kind_of", "person_who")]
        if not known:
            return None
        fact = self.random.choice(known)
        if fact.attribute == "shopping":
            return self._fix_list(fact, turn)
        entry = self.t.attributes[fact.attribute]
        if fact.older and self.random.random() < 0.25:
            value = self.random.choice(fact.older)
        else:
            value = self._fresh(entry["value"])
        if value is None or value in (fact.value, fact.key):
            return None
        old, fact.value, fact.turn = fact.value, value, turn
        fact.older.append(old)
        self.used.add(value.lower())
        mirror = MIRROR.get(fact.attribute)
        if mirror:  # who the old name was is no longer a clear question
            self.facts.pop((mirror, old), None)
            self.facts[mirror, value] = Fact(mirror, value, fact.key, turn=turn)
        text, _ = fill(self.t.draw(fact.attribute, "fix", self.random), k=fact.key, v=value, o=old)
        acks = [a for a in self.t.ack_fix if ("{v}" in a) == (self.random.random() < self.style.echo)]
        answer, spans = fill(self.random.choice(acks or self.t.ack_fix), v=value, o=old)
        return Turn(text, answer, FIX, fact.attribute, 0, spans)

    def _fix_list(self, fact, turn):
        """Adds an item to the shopping list or takes one off."""
        items = fact.value.replace(" and ", ", ").split(", ")
        template = self.t.draw("shopping", "fix", self.random)
        remove = "off the list" in template or "not need" in template
        if remove:
            if len(items) < 3:
                return None
            word = items.pop(self.random.randrange(len(items)))
        else:
            word = self._fresh("item")
            if word is None or word in items or len(items) > 4:
                return None
            items.append(word)
        fact.older.append(fact.value)
        fact.value, fact.turn = join(items), turn
        self.used.add(word.lower())
        text, _ = fill(template, w=word)
        return Turn(text, self.random.choice(("Okay, I changed it.",) + NEUTRAL), FIX, "shopping")

    # -- asking ----------------------------------------------------------------------------------
    def ask(self, fact, turn):
        """A question for a known fact; a tenth of those that allow it are yes/no."""
        entry, random = self.t.attributes[fact.attribute], self.random
        answer, spans = fill(random.choice(entry["ans"]), k=fact.key, v=fact.value)
        if entry.get("yesno") and random.random() < self.style.yes_no:
            right = random.random() < 0.5
            probe = fact.value if right else self._fresh(entry["value"])
            if probe:
                text, _ = fill(random.choice(entry["yesno"]), k=fact.key, x=probe)
                frame = random.choice(self.t.yes if right else self.t.no)
                shift = frame.index("{a}")
                if len(answer) < 2 * len(fact.value):  # "Anna." alone after "Yes," reads badly
                    answer, spans = fill(entry["ans"][0], k=fact.key, v=fact.value)
                if frame.startswith("Yes,") and answer.startswith(("Your ", "You ", "It ")):
                    answer = answer[0].lower() + answer[1:]
                spans = [(a + shift, b + shift) for a, b in spans]
                answer = frame.replace("{a}", answer)
                return self._asked(fact, text, answer, spans, turn)
        text, _ = fill(self.t.draw(fact.attribute, "ask", random), k=fact.key)
        return self._asked(fact, text, answer, spans, turn)

    def _asked(self, fact, text, answer, spans, turn):
        distance, fact.turn = turn - fact.turn, turn
        return Turn(self.prefixed(text), answer, ASK, fact.attribute, distance, spans)

    def ask_untold(self):
        """A question whose only honest answer is that nobody told."""
        found = self.untold()
        if found is None:
            return None
        attribute, key = found
        self.refused.append(found)
        text, _ = fill(self.t.draw(attribute, "ask", self.random), k=key)
        answer = self.random.choice(self.t.unknown)
        return Turn(self.prefixed(text), answer, UNTOLD, attribute)

    def recap(self, turn):
        """Lists up to four facts."""
        facts = [f for f in self.alive() if f.attribute not in ("pet_kind_of", "person_who")]
        if not facts:
            return None
        answer, spans = "", []
        for fact in self.random.sample(facts, min(len(facts), 4)):
            entry = self.t.attributes[fact.attribute]
            text, found = fill(entry["ans"][0], k=fact.key, v=fact.value)
            if len(answer) + len(text) > 120:
                break
            answer += " " if answer else ""
            spans += [(a + len(answer), b + len(answer)) for a, b in found]
            answer += text
        return Turn(self.random.choice(self.t.recap_ask), answer, RECAP, "", 0, spans)

    def prefixed(self, text):
        """'By the way, what is ...': the question's first letter only becomes small where the
        first word is no value."""
        prefix = self.random.choice(self.t.prefix)
        if not prefix or (self.t.wide and self.random.random() < 0.8):  # frames have their own
            return text
        if prefix.rstrip().endswith((",", ":")) and not text.startswith("I "):
            text = text[0].lower() + text[1:]
        return prefix + text
