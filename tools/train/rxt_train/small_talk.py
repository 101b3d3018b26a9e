"""What lies between facts: chit-chat, runs of real dialogue, sums, common knowledge, and facts
about others that are near misses of the user's own."""

import re

from .entities import read_json
from .world import CHAT, Turn, fill

# Users' sentences that state a personal fact could contradict the dialogue's state.
PERSONAL = re.compile(
    r"\b(my name|call me|i am|i'm|im|i live|i work|my (favou?rite|dog|cat|pet|brother|sister|wife|"
    r"husband|son|daughter|mom|mother|dad|father|friend|boss|job|birthday|age|hobby|city|home|"
    r"house|family|uncle|aunt|cousin)|i have a|i was born|years old|my number)\b",
    re.IGNORECASE,
)
# Answers that speak about what was told belong to the generator alone.
TOLD = re.compile(r"\b(told me|tell me your|you said|did not say|have not told|your name)\b", re.I)

FALLBACK = (  # where no real text is given: tests, and a first try without data
    ("Hello!", "Hello! How are you?"),
    ("How are you today?", "I am fine, thank you."),
    ("Thanks a lot.", "You are welcome."),
    ("It is raining again.", "Then it is a good day to stay inside."),
    ("Tell me a joke.", "Why did the book look sad? It had too many problems."),
    ("Are you a robot?", "Yes, I am a small program."),
    ("I am tired.", "I hope you can rest soon."),
    ("What can you do?", "I can chat with you and remember what you tell me."),
)

CAPITALS = dict(
    pair.split(":")
    for pair in "France:Paris Spain:Madrid Italy:Rome Japan:Tokyo Egypt:Cairo Peru:Lima "
    "Germany:Berlin England:London Greece:Athens Russia:Moscow China:Beijing Portugal:Lisbon "
    "Poland:Warsaw Hungary:Budapest Austria:Vienna Norway:Oslo Sweden:Stockholm Ireland:Dublin "
    "Canada:Ottawa Cuba:Havana Kenya:Nairobi Turkey:Ankara Chile:Santiago Finland:Helsinki".split()
)
LEGS = dict(pair.split(":") for pair in "horse:four dog:four cat:four bird:two spider:eight fly:six "
            "cow:four ant:six duck:two bee:six chicken:two sheep:four".split())
OPPOSITES = dict(pair.split(":") for pair in "long:short big:small hot:cold fast:slow old:new "
                 "happy:sad high:low rich:poor early:late open:closed light:dark wet:dry".split())
COLORS = dict(pair.split(":") for pair in "tomato:red banana:yellow snow:white grass:green coal:black "
              "lemon:yellow carrot:orange strawberry:red frog:green milk:white".split())
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November "
          "December").split()
OTHERS = ("Interesting!", "I see.", "That is nice.", "Okay, good to know.", "Nice to hear.")
TASTE = "Your {r} has good taste."
FAVORITES = ("food", "drink", "color", "animal", "sport", "season")


class SmallTalk:
    """Draws distractors; singles: [(q, a)], runs: [[(q, a), ...]] of real dialogue, or empty."""

    def __init__(self, entities, singles=(), runs=()):
        self.entities = entities
        self.singles = singles or FALLBACK
        self.runs = runs or [list(FALLBACK)]
        others = read_json("others.json")
        wording = "train" if entities.split == "train" else "valid"
        self.favorite = others["favorite"][wording]
        self.others = {name: x[wording] for name, x in others["attributes"].items()}

    def stray(self, random):
        """An answer to something else."""
        run = [random.choice(self.singles)] if random.random() < 0.5 else random.choice(self.runs)
        return random.choice(run)[1]

    def turns(self, random, world, limit):
        """One to limit small-talk turns."""
        x = random.random()
        if x < 0.40:
            pairs = [random.choice(self.singles)]
        elif x < 0.68:
            run = random.choice(self.runs)
            n = min(random.randint(1, 4), len(run), limit)
            first = random.randint(0, len(run) - n)
            pairs = run[first : first + n]
        elif x < 0.84:
            pairs = [self.knowledge(random)]
        else:
            pairs = [self.other(random, world)]
        return [Turn(q, a, CHAT) for q, a in pairs]

    def knowledge(self, random):
        what = random.randrange(7)
        if what < 2:
            a, b = random.randint(1, 12), random.randint(1, 12)
            asked = random.choice((f"How much is {a} plus {b}?", f"What is {a} plus {b}?"))
            return asked, random.choice((f"{a} plus {b} is {a + b}.", f"It is {a + b}."))
        if what == 2:
            country, city = random.choice(list(CAPITALS.items()))
            return f"What is the capital of {country}?", f"The capital of {country} is {city}."
        if what == 3:
            animal, legs = random.choice(list(LEGS.items()))
            kind = "An" if animal[0] in "aeiou" else "A"
            return f"How many legs does {kind.lower()} {animal} have?", f"{kind} {animal} has {legs} legs."
        if what == 4:
            word, other = random.choice(list(OPPOSITES.items()))
            return f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
        if what == 5:
            thing, color = random.choice(list(COLORS.items()))
            return f"What color is a {thing}?", f"A {thing} is usually {color}."
        unit, names = random.choice((("day", DAYS), ("month", MONTHS)))
        i = random.randrange(len(names))
        after = names[(i + 1) % len(names)]
        return f"What {unit} comes after {names[i]}?", f"After {names[i]} comes {after}."

    def other(self, random, world):
        """'My aunt likes apple juice best.', 'My aunt plays the cello.': as a fact of the user's
        own it was never told."""
        relation = self.entities.draw("relation", random)
        if random.random() < 0.5:
            noun = random.choice(FAVORITES)
            attribute, templates, answers = "fav_" + noun, self.favorite, (*OTHERS, TASTE)
        else:
            noun, answers = "", OTHERS
            attribute, templates = random.choice(list(self.others.items()))
        entry = world.t.attributes[attribute]
        key = self.entities.value(entry["key"], random, 0.7) if entry["key"] else ""
        value = self.entities.value(entry["value"], random, 0.7)
        world.heard.add((attribute, key))
        text, _ = fill(random.choice(templates), r=relation, k=key, v=value, n=noun)
        return text, random.choice(answers).replace("{r}", relation)


def usable_single(q, a, source):
    """Single-turn chit-chat that contradicts no memory."""
    wrong = ("user_name", "current_location", "find_phone", "do_you_have_pets")
    return not source.endswith(wrong) and not TOLD.search(a) and not PERSONAL.search(q)


def usable_runs(pairs):
    """The runs of a dialogue between the pairs in which the user states a personal fact."""
    runs, run = [], []
    for q, a in pairs:
        if PERSONAL.search(q) or TOLD.search(a):
            if run:
                runs.append(run)
            run = []
        else:
            run.append((q, a))
    return runs + [run] if run else runs
