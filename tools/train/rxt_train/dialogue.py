"""Whole dialogues of n turns: the profiles of the curriculum."""

import math
from dataclasses import dataclass, replace

from .world import CHAT, FIX, KEYED, TELL, Style, World


@dataclass(frozen=True)
class Profile:
    """How often a turn tells, asks and corrects; see the table in the README."""

    name: str
    style: Style
    most_facts: int
    tell: float = 0.0  # planned loop: chance to tell while facts are left
    chat_run: int = 4  # small-talk turns in a row, at most
    again: float = 0.35  # a question plans another one
    fix: float = 0.06
    untold: float = 0.07
    even: float = 0.35  # exam: silences of any length alike often, not log-uniform


def styled(*shares, **rest):
    return Style(*shares, small=0.12, open_keys=0.25, **rest)


DENSE_STYLE = styled(0.85, 0.5, two_facts=0.25, after_chat=0.0, same_attribute=0.4)
DENSE = Profile("dense", DENSE_STYLE, 10)
MIDDLE = Profile("middle", styled(0.8, 0.4, same_attribute=0.4), 8, 0.6, 2, 0.45, 0.10, 0.10)
NATURAL = Profile("natural", styled(0.75, 0.3), 8, 0.45, 4, 0.35, 0.08, 0.11)
KEYS = Profile("keys", styled(0.8, 0.4, two_facts=0.1, same_attribute=1.0), 5, 0.7, 3)
EXAM_STYLE = styled(0.8, 0.3, two_facts=0.1, after_chat=0.05, same_attribute=0.4, near_miss=0.3)
EXAM = Profile("exam", EXAM_STYLE, 8, chat_run=2, fix=0.3, untold=0.45)
REFUSE = Profile("refuse", replace(EXAM_STYLE, near_miss=0.5, late=0.5), 8, chat_run=2, fix=0.2,
                 untold=0.8, even=0.6)
PROFILES = {p.name: p for p in (DENSE, MIDDLE, NATURAL, KEYS, EXAM, REFUSE)}


class Generator:
    """Makes dialogues from templates, entities and small talk of one split. stray: share of small
    talk, and half of it of what is told and corrected, that gets an answer to something else, as
    from a model that did not understand; nobody is to learn that answer."""

    def __init__(self, templates, entities, small_talk, stray=0.0):
        self.templates, self.entities, self.small_talk = templates, entities, small_talk
        self.stray = stray

    def dialogue(self, profile, n, random):
        """n turns. The last one is a question where anything is known."""
        world = World(self.templates, self.entities, profile.style, random)
        loops = {"dense": self._dense, "keys": self._keys, "exam": self._exam, "refuse": self._exam}
        loop = loops.get(profile.name, self._planned)
        turns = loop(world, profile, n, random)
        if self.stray:
            shares = {CHAT: self.stray, TELL: self.stray / 2, FIX: self.stray / 2}
            for turn in turns:
                if random.random() < shares.get(turn.kind, 0.0):
                    turn.a, turn.spans, turn.stray = self.small_talk.stray(random), [], True
        if profile.style.noise:
            for turn in turns:
                self._noise(turn, random)
        if world.small:
            plain = random.random() < 0.5  # "whats my name"
            for turn in turns:
                turn.q = turn.q.lower()
                if plain:
                    turn.q = turn.q.replace("'", "").rstrip(".!?")
        return turns

    def _chat(self, world, random, limit):
        return self.small_talk.turns(random, world, limit)

    def _dense(self, world, profile, n, random):
        turns = []
        most = min(profile.most_facts, n)
        while len(turns) < n:
            at, known = len(turns), world.alive()
            turn = None
            if known and (at == n - 1 or random.random() < 0.42):
                if random.random() < 0.15:
                    turn = world.ask_untold()
                turn = turn or world.ask(random.choice(known), at)
            elif not known or random.random() < 0.66:
                if known and random.random() < 0.24:
                    turn = world.fix(at)
                elif world.count() < most:
                    turn = world.tell(at)
            turns += [turn] if turn else self._chat(world, random, 1)
        return turns[:n]

    def _keys(self, world, profile, n, random):
        """Two to five keys of one attribute ("my exam", "my haircut", "my flight"), told among
        other facts and small talk, corrected one by one and asked for, old ones first."""
        turns = []
        world.focus = random.choice(KEYED)
        most = min(random.choice((2, 3, 3, 3, 4, 5)), max(2, n // 2), profile.most_facts)
        ask = 0.6 if n <= 12 else 0.4  # long windows leave room for long gaps
        while len(turns) < n:
            at, known, turn = len(turns), world.alive(), None
            x = random.random()
            if world.count() < most and (not known or x < profile.tell) and at < n - 1:
                turn = world.tell(at)
            elif known and (at == n - 1 or x < ask):
                near = [f for f in known if f.attribute == world.focus]
                wanted = near if near and random.random() < 0.85 else known
                oldest = min(wanted, key=lambda f: f.turn)
                turn = world.ask(oldest if random.random() < 0.4 else random.choice(wanted), at)
            elif x < ask + 0.1:
                turn = world.fix(at)
            elif x < ask + 0.18:
                turn = world.ask_untold()
            run = min(profile.chat_run if n > 6 else 1, n - at)
            turns += [turn] if turn else self._chat(world, random, run)[:run]
        return turns

    def _exam(self, world, profile, n, random):
        """Rounds of telling, silence and questions: facts are told and some corrected, then comes
        nothing but small talk for a while, then everything is asked, and much that was not told.
        Every question of a round has the whole silence behind it."""

        def share(p, count):
            return sum(random.random() < p for _ in range(count))

        turns = []
        world.focus = random.choice(KEYED) if random.random() < 0.4 else ""
        while len(turns) < n:
            left, known = n - len(turns), world.count()
            most = min(random.choice((1, 2, 3, 3, 4, 6, 8, 8)), max(1, left // 3))
            most = max(0, min(most, profile.most_facts - known))
            told = ["tell"] * most + ["fix"] * share(profile.fix, max(most, 1))
            asked = ["ask"] * (known + most)
            asked += ["untold"] * share(profile.untold, len(asked))
            room = max(1, left - len(told) - len(asked))
            even = random.random() < profile.even  # else log-uniform
            silence = round(room * random.random() if even else room ** random.random() - 1)
            plan = random.sample(told, len(told)) + ["chat"] * silence
            quiet = range(len(told), len(plan))
            self._round(world, n, random, turns, plan + random.sample(asked, len(asked)), quiet)
        return turns

    def _round(self, world, n, random, turns, plan, quiet):
        """Adds a round to turns, up to n of them, at times small talk between, but not where the
        plan is quiet; a question comes last."""
        due = []  # facts this round has not asked for yet
        for i, what in enumerate(plan):
            at = len(turns)
            if at == n:
                return
            if at == n - 1 and what not in ("ask", "untold"):
                what = "untold" if random.random() < 0.3 else "ask"
            turn = None
            if what == "tell":
                turn = world.tell(at)
            elif what == "fix":
                turn = world.fix(at)
            elif what == "untold":
                turn = world.ask_untold()
            elif what == "ask" and world.alive():
                due = due or world.alive()
                fact = random.choice(due)
                due = [f for f in due if f is not fact]
                turn = world.ask(fact, at)
            turns += [turn] if turn else self._chat(world, random, 1)
            if i not in quiet and random.random() < 0.2 and len(turns) < n - 1:
                turns += self._chat(world, random, 1)

    def _planned(self, world, profile, n, random):
        """Tells some facts, asks each after a log-uniform gap, and chats in between."""
        span = math.log2(max(n - 1, 2))
        most = random.choice((1, 2, 2, 3, 4, 6, 8, 8) if n > 12 else (1, 2, 3, 4, 6, 8))
        most = min(max(most, math.ceil(0.10 * n)), profile.most_facts)
        turns, due = [], []  # due: (turn, attribute)

        def plan(attribute):
            due.append((len(turns) + round(2 ** random.uniform(0, span)), attribute))

        while len(turns) < n:
            at, turn = len(turns), None
            ready = sorted(x for x in due if x[0] <= at)
            last = at == n - 1 and world.facts
            if ready or last:
                if ready:
                    due.remove(ready[0])
                wanted = [f for f in world.alive() if ready and f.attribute == ready[0][1]]
                fact = random.choice(wanted or world.alive())
                turn = world.ask(fact, at)
                if random.random() < profile.again:
                    plan(fact.attribute)
            elif world.count() < most and random.random() < profile.tell:
                turn = world.tell(at, random.choice(self.small_talk.singles)[0])
                if turn:
                    plan(turn.attribute)
            else:
                x = random.random()
                if x < profile.fix:
                    turn = world.fix(at)
                    if turn:
                        plan(turn.attribute)
                elif x < profile.fix + profile.untold:
                    turn = world.ask_untold()
                elif x < profile.fix + profile.untold + 0.01:
                    turn = world.recap(at)
            if turn is not None:
                turns.append(turn)
                continue
            limit = min(profile.chat_run, n - len(turns))
            if due:  # do not chat past a question
                limit = min(limit, max(1, min(x[0] for x in due) - len(turns)))
            turns += self._chat(world, random, limit)[:limit]
        return turns

    def _noise(self, turn, random):
        """Typing as people do it, on the user's side and never inside a value: lower case is the
        only change that touches every word."""
        x = random.random()
        if turn.kind >= 4:
            return
        if x < 0.10:
            if turn.kind in (1, 2, 5):
                turn.q = turn.q[0].lower() + turn.q[1:]
            if random.random() < 0.5:
                turn.q = turn.q.rstrip(".!?")
        elif x < 0.18:
            turn.q = turn.q.rstrip(".!?")
        elif x < 0.22:
            turn.q = swap_letters(turn.q, random)
        if random.random() < 0.01:
            turn.cut = True


def swap_letters(text, random):
    """Exchanges two neighbouring letters inside one of the common words, which hold no value."""
    words = text.split(" ")
    places = [i for i, w in enumerate(words) if w in COMMON]
    if places:
        i = random.choice(places)
        word, at = words[i], random.randrange(1, len(words[i]) - 1)
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


COMMON = frozenset(
    "What what Which which Where where When when remember called name favorite please number tell "
    "Please Tell have need does about from live work like love most".split()
)
