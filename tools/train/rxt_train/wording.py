"""More ways to say, correct and ask a fact than templates.json has, for training: whole sentences,
and clauses put into frames ("Did I tell you that ...?", "..., just so you know.")."""

import re

from .entities import read_json

FORMS = ("say", "ask", "fix")
CONTRACTIONS = tuple(
    (re.compile(rf"\b{long} (?=[\w{{])"), short + " ")
    for long, short in (pair.split("=") for pair in (
        "I am=I'm|It is=It's|it is=it's|What is=What's|Where is=Where's|When is=When's|Who is=Who's|"
        "what is=what's|where is=where's|who is=who's|That is=That's|that is=that's|do not=don't|"
        "Do not=Don't|cannot=can't|I will=I'll|is not=isn't|name is=name's|I have got=I've got|"
        "did not=didn't|I would=I'd|Let us=Let's").split("|"))
)  # fmt: skip


def normal(template):
    """Words and places of a template: what is equal here is the same wording."""
    return " ".join(re.findall(r"\{[a-z]\}|[a-z0-9]+", template.lower().replace("'", "")))


def surface(template):
    """The normal form without the names of its places: the same words in any attribute."""
    return re.sub(r"\{[a-z]\}", "{}", normal(template))


def capital(text):
    return text[0].upper() + text[1:]


def small(text):
    """The first letter small where the first word is neither a value nor I."""
    return text if re.match(r"I\b|\{", text) else text[0].lower() + text[1:]


class Wording:
    """Draws templates of an attribute. base: the attribute's entry of the train split."""

    def __init__(self):
        more = read_json("wordings.json")
        bank = read_json("templates.json")["attributes"]
        self.frames, self.attributes = more["frames"], more["attributes"]
        # kept for tests and for tuning, of any attribute: a frame may not build one by chance
        self.held = {surface(x) for e in bank.values() for form in FORMS for x in e[form]["test"]}
        kept = [e["valid"] for e in self.attributes.values()]
        self.held |= {surface(x) for e in kept for form in e for x in e[form]}

    def _free(self, name, base, form, draw, random):
        for _ in range(20):
            text = draw(name, base, random)
            if random.random() < 0.25:
                for pattern, short in CONTRACTIONS:
                    text = pattern.sub(short, text)
            if surface(text) not in self.held:
                return text
        return random.choice(base[form])

    def say(self, name, base, random):
        return self._free(name, base, "say", self._say, random)

    def ask(self, name, base, random):
        return self._free(name, base, "ask", self._ask, random)

    def fix(self, name, base, random):
        return self._free(name, base, "fix", self._fix, random)

    def clause(self, name, random):
        """Part of a sentence that tells two facts; it begins with no value."""
        found = [c for c in self.attributes[name]["clause"] if c[0] != "{"]
        return random.choice(found)

    def _say(self, name, base, random):
        more, frames, x = self.attributes[name], self.frames, random.random()
        if x < 0.25:
            return random.choice(base["say"])
        if x < 0.45:
            return random.choice(more["say"])
        clause = random.choice(more["clause"])
        if x < 0.58:
            return capital(clause) + "."
        if x < 0.80:
            return random.choice(frames["embed_say"]).replace("{s}", clause)
        opener = random.choice(frames["opener_say"]) if x < 0.92 else ""
        text = opener + clause if opener else capital(clause)
        if x > 0.88:
            text += random.choice(frames["closer_say"])
        asks = re.search(r"\. (Can|What|How|Isn't)\b[^.]*$", text)
        return text + ("?" if asks else ".")

    def _ask(self, name, base, random):
        more, frames, x = self.attributes[name], self.frames, random.random()
        if x < 0.20:
            return random.choice(base["ask"])
        if x < 0.42:
            return random.choice(more["ask"])
        if x < 0.70:
            return random.choice(frames["embed_ask"]).replace("{i}", random.choice(more["indirect"]))
        if x < 0.80 and more["noun"]:
            return random.choice(frames["noun_ask"]).replace("{n}", random.choice(more["noun"]))
        text = random.choice(base["ask"] + more["ask"])
        if x < 0.92:
            opener = random.choice(frames["opener_ask"])
            return opener + (text if opener.endswith(". ") else small(text))
        if not text.endswith("?"):
            return text
        closer = random.choice(frames["closer_ask"])
        return text[:-1] + closer + ("" if closer[-1] in ".?" else "?")

    def _fix(self, name, base, random):
        more, frames, x = self.attributes[name], self.frames, random.random()
        if x < 0.30 or name == "shopping":
            return random.choice(base["fix"] + (more["fix"] if name == "shopping" else []))
        text = random.choice(more["fix"])
        if x < 0.70:
            return text
        if x < 0.85:
            opener = random.choice(frames["opener_fix"])
            return opener + (text if opener.endswith((". ", ": ")) else small(text))
        frame = random.choice(frames["embed_fix"])
        return frame.replace("{f}", small(text)).replace("{F}", text)
