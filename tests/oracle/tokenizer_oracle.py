#!/usr/bin/env python3
"""Holds the tokenizer against the `tokenizers` library.

Makes tokenizer.json files with every setting that rxt/tokenizer_impl.h accepts, and texts of many
scripts, and demands the same ids in both modes, and the same decoded text.

usage: tokenizer_oracle.py --dump PROGRAM --bundled tokenizer.json [--texts N] [--short N] [--seed N]
                           [--every] [--only X]

Both modes: RXT_SPECIAL is the library as it is, RXT_PLAIN is its encode_special_tokens.
Left out, and counted: texts that the library normalizes by older tables than Unicode 14.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4_POSSESSIVE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
                   r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++(?!\S)|\s*[\r\n]|\s+").replace("}+|", "}|")
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
CJK_RUN = "[一-龥\u3040-ゟ゠-ヿ]+"
PUNCT = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
         r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]", "[Q]", "[A]", "[T]", "[C]", "[U]", "[I]"]

# ---- texts ----------------------------------------------------------------------------------

SCRIPTS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFB00, 0xFB06)],
    "greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "cyrillic": [(0x400, 0x52F)],
    "armenian georgian": [(0x531, 0x58A), (0x10A0, 0x10FF), (0x1C90, 0x1CBF)],
    "hebrew": [(0x591, 0x5F4), (0xFB1D, 0xFB4F)],
    "arabic": [(0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)],
    "syriac nko": [(0x700, 0x74F), (0x7C0, 0x7FF)],
    "devanagari": [(0x900, 0x97F), (0xA8E0, 0xA8FF)],
    "bengali gurmukhi": [(0x980, 0xA76)],
    "gujarati oriya": [(0xA81, 0xB77)],
    "tamil telugu": [(0xB82, 0xC7F)],
    "kannada malayalam sinhala": [(0xC80, 0xDF4)],
    "thai lao": [(0xE01, 0xE5B), (0xE81, 0xEDF)],
    "tibetan myanmar": [(0xF00, 0xFDA), (0x1000, 0x109F)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C)],
    "ethiopic cherokee": [(0x1200, 0x139F), (0x13A0, 0x13FD)],
    "khmer mongolian": [(0x1780, 0x17F9), (0x1800, 0x18AA)],
    "kana": [(0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)],
    "han": [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAD9), (0x20000, 0x2A6DF)],
    "halfwidth": [(0xFF01, 0xFFEE), (0x3000, 0x303F)],
    "historic": [(0x10280, 0x1056F), (0x10900, 0x10939), (0x11000, 0x1107F), (0x12000, 0x12399),
                 (0x13000, 0x1342E), (0x16A0, 0x16F8), (0x10400, 0x1044F)],
    "mathematical": [(0x1D400, 0x1D7FF), (0x2200, 0x22FF), (0x2100, 0x218B)],
    "enclosed": [(0x2460, 0x24FF), (0x1F100, 0x1F1AC), (0x3200, 0x33FF)],
    "marks": [(0x300, 0x36F), (0x1AB0, 0x1ABE), (0x1DC0, 0x1DFF), (0x20D0, 0x20F0),
              (0xFE20, 0xFE2F)],
    "emoji": [(0x1F300, 0x1FAF6), (0x2600, 0x27BF)],
    "selectors tags": [(0xFE00, 0xFE0F), (0xE0020, 0xE007F), (0xE0100, 0xE01EF)],
    "private": [(0xE000, 0xE0FF), (0xF0000, 0xF00FF)],
    "controls": [(0x0, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2069),
                 (0xFEFF, 0xFEFF), (0xAD, 0xAD), (0x61C, 0x61C), (0x180B, 0x180F)],
    "punctuation": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xBF),
                    (0x2010, 0x205E)],
}
CUT = SPECIAL + ["[Q", "Q]", "[", "]", "[[Q]]", "[q]", "[ Q ]", "[QQ]", "[A][Q]"]
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
JOINED = ["👨‍👩‍👧‍👦", "👩🏽‍🚀", "🏳️‍🌈", "🇵🇱🇩🇪", "1️⃣", "🧑🏿‍🤝‍🧑🏻", "🏴\U000e0067\U000e0062\U000e0065"
          "\U000e006e\U000e0067\U000e007f", "❤️", "☝🏻", "क्षि", "ক্ষ", "ക്‍ഷ", "നി", "สวัสดี", "ཧཱུྃ",
          "e\u0301\u0323", "e\u0323\u0301", "o\u0302\u0323", "ﬃ", "ǆ", "İ", "ı", "ẞ", "ſ", "K",
          "Å", "각", "\u1100\u1161\u11a8", "ｶﾞ", "㎏", "½", "x²", "Ⅷ", "①", "ΑΣ", "ς"]
ENGLISH = ["it's", "I'm", "don't", "we'll", "They've", "WE'RE", "I'D", "IT'S", "rock'n'roll",
           "'tis", "''s", "'ſ", "'S", "’s", "hello", "Hello", "HELLO", "world", "the", "a", "is",
           "name", "Anna", "3.14", "1,000,000", "x=y+1;", "foo_bar", "e-mail", "a@b.org",
           "http://x.org/?q=1&r=2", "C++", "#1", "(and)", "\"quoted\"", "...", "—", "€5", "100%",
           "don´t", "naïve", "café"]


def assigned(cp):
    return unicodedata.category(chr(cp)) not in ("Cn", "Cs")


class Texts:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.script = {name: [chr(c) for lo, hi in ranges for c in range(lo, hi + 1) if assigned(c)]
                       for name, ranges in SCRIPTS.items()}
        self.numbers = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c))[0] == "N"]
        self.all = [chr(c) for c in range(0x110000) if assigned(c) and not 0xE000 <= c <= 0xF8FF
                    and c < 0xF0000]
        self.cut = CUT

    def word(self):
        r = self.r
        kind = r.randrange(12)
        if kind < 3:
            return r.choice(ENGLISH)
        if kind < 7:
            pool = r.choice(list(self.script.values()))
            return "".join(r.choices(pool, k=r.randint(1, 8)))
        if kind == 7:  # letters with stacks of marks
            pool = self.script[r.choice(["latin", "greek", "devanagari", "thai lao", "hebrew"])]
            return "".join(r.choice(pool) + "".join(r.choices(self.script["marks"],
                                                              k=r.randint(0, 3)))
                           for _ in range(r.randint(1, 4)))
        if kind == 8:
            return "".join(r.choices(r.choice([self.numbers, "0123456789"]), k=r.randint(1, 7)))
        if kind == 9:
            return r.choice(JOINED)
        if kind == 10:
            return r.choice(self.cut)
        return "".join(r.choices(self.all, k=r.randint(1, 4)))

    def space(self):
        r = self.r
        kind = r.randrange(10)
        if kind < 6:
            return " "
        if kind < 7:
            return ""
        if kind < 8:
            return " " * r.randint(2, 5)
        return "".join(r.choices(SPACES, k=r.randint(1, 4)))

    def one(self):
        r = self.r
        if r.random() < 0.02:  # one long piece
            return r.choice(["a", "ab", "é", "日", " ", "\n ", "9", "!", "👍", "e\u0301"]) * \
                r.randint(20, 300)
        text = "" if r.random() < 0.7 else self.space()
        for _ in range(r.randint(0, 9)):
            text += self.word() + self.space()
        return text if r.random() < 0.3 else text.rstrip(" ")

    def many(self, n):
        fixed = ["", " ", "  ", "\n", "a", "'", "'s", " 's", "' s", "[Q]", " [Q] ", "[Q][A]",
                 "x[Q]y", "\x00", "a\x00b", "\u180e", "a\u180eb", "\x85", "a\x1cb"]
        return (fixed + [self.one() for _ in range(n)])[:n]


def every_code_point():
    """Each assigned one beside a letter, a number, white space and itself; of Han, Hangul and
    private use, which are alike, one in 16."""
    every = [chr(c) for c in range(0x110000) if assigned(c) and
             (c % 16 == 0 or unicodedata.category(chr(c)) != "Co" and
              unicodedata.name(chr(c), "")[:5] not in ("CJK U", "HANGU"))]
    return ["".join(f"a{c}1{c} {c}{c}word{c}" for c in every[i:i + 20])
            for i in range(0, len(every), 20)]


# ---- tokenizers ------------------------------------------------------------------------------

def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    """With a prefix space for every piece, so that the ids show where the pieces end."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, behavior, invert),
                                    byte_level(True, False)])


def flagged():
    """Added tokens with every flag, overlapping, of white space, and not ASCII."""
    return [AddedToken("<l>", lstrip=True, special=True), AddedToken("<r>", rstrip=True),
            AddedToken("<lr>", lstrip=True, rstrip=True, special=True),
            AddedToken("<w>", single_word=True), AddedToken("word", single_word=True),
            AddedToken("the", single_word=True, normalized=False), AddedToken("[Q"),
            AddedToken("Hello", normalized=True), AddedToken("É", normalized=True),
            AddedToken("e\u0301", normalized=True), AddedToken("ﬃ", normalized=False),
            AddedToken("  ", normalized=False), AddedToken("\n", normalized=False),
            AddedToken("日本"), AddedToken("👍", rstrip=True), AddedToken("👍🏽", special=True),
            AddedToken("a b", normalized=False), AddedToken("it's", normalized=False)]


FLAG_WORDS = ["<l>", "<r>", "<lr>", "<w>", "word", "swordfish", "the", "then", "Hello", "É", "é",
              "E\u0301", "e\u0301", "ﬃ", "日本", "👍", "👍🏽", "a b", "ⓐword", "word\u200d", "²word"]


EVERY = ["gpt2 as split", "gpt4", "digits", "nfc", "nfkd", "lowercase", "added"]


def variants():
    """Name, and what makes the tokenizer (see build)."""
    v = {"bundled": dict(base="bundled"),
         "bundled prefix space": dict(base="bundled", pre=byte_level(True)),
         "gpt2 prefix unk": dict(base="few letters", pre=byte_level(True), unk_token="[UNK]"),
         "gpt2 prefix fused unk": dict(base="few letters", pre=byte_level(True), fuse_unk=True,
                                       unk_token="[UNK]"),
         "gpt2 no unk": dict(base="few letters", pre=byte_level()),
         "gpt2 words": dict(base="words", pre=byte_level()),
         "gpt2 legacy merges": dict(pre=byte_level(), legacy=True),
         "gpt2 ignore merges": dict(base="words", pre=byte_level(), ignore_merges=True),
         "one piece": dict(pre=byte_level(regex=False)),
         "one piece prefix": dict(pre=byte_level(True, False)),
         "gpt2 as split": dict(pre=split(Regex(GPT2))),
         "gpt2 as split removed inverted": dict(pre=split(Regex(GPT2), "removed", True)),
         "gpt4": dict(pre=split(Regex(GPT4)), ignore_merges=True),
         "gpt4 possessive": dict(pre=split(Regex(GPT4_POSSESSIVE))),
         "qwen nfc": dict(pre=split(Regex(QWEN)), norm=normalizers.NFC()),
         "o200k": dict(pre=split(Regex(O200K), "removed", True)),
         "digits cjk": dict(pre=pre_tokenizers.Sequence(
             [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
              pre_tokenizers.Split(Regex(CJK_RUN), "isolated"),
              pre_tokenizers.Split(Regex(PUNCT), "isolated"), byte_level(False, False)])),
         "digits": dict(pre=pre_tokenizers.Sequence(
             [pre_tokenizers.Digits(True), pre_tokenizers.Split(Regex(GPT2), "isolated"),
              byte_level(True, False)])),
         "digits together prefix": dict(pre=pre_tokenizers.Sequence(
             [pre_tokenizers.Digits(False), byte_level(True)])),
         "empty matches": dict(pre=split(Regex(r"\s*"), "merged_with_previous")),
         "scripts": dict(pre=split(Regex(r"\p{Han}+|\p{Hiragana}+|\p{Lu}\p{Ll}*|\d"))),
         "lookbehind": dict(pre=split(Regex(r"(?<=\p{L})\p{P}+(?!\p{P})|(?<! )\S(?= )|(?>a|ab)c"))),
         "nfc": dict(pre=byte_level(True), norm=normalizers.NFC()),
         "nfd": dict(pre=byte_level(), norm=normalizers.NFD()),
         "nfkc": dict(pre=byte_level(True), norm=normalizers.NFKC()),
         "nfkd": dict(pre=byte_level(), norm=normalizers.NFKD()),
         "lowercase": dict(pre=byte_level(), norm=normalizers.Lowercase()),
         "nfkc lowercase": dict(pre=byte_level(), norm=normalizers.Sequence(
             [normalizers.NFKC(), normalizers.Lowercase()])),
         "prepend replace": dict(pre=byte_level(), norm=normalizers.Sequence(
             [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"),
              normalizers.Replace(Regex(r"\p{N}+|x+"), "0")])),
         "added": dict(pre=byte_level(), added=flagged()),
         "added prefix": dict(pre=byte_level(True), added=flagged()),
         "added nfc": dict(pre=byte_level(), added=flagged(), norm=normalizers.NFC()),
         "added lowercase": dict(pre=byte_level(), added=flagged()[:8], norm=normalizers.Sequence(
             [normalizers.Lowercase(), normalizers.NFKC()])),
         "added gpt4": dict(pre=split(Regex(GPT4)), added=flagged(), ignore_merges=True)}
    for b in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            name = b + (" inverted" if invert else "")
            v["string " + name] = dict(pre=split(" ", b, invert))
            v["regex " + name] = dict(pre=split(Regex(r"\s|\p{N}|[a-e]{2,}"), b, invert))
    return v


def learn(pre, alphabet, texts):
    """A tokenizer.json, as a tree, with 2,000 tokens learned from the texts."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=alphabet, max_token_length=60,
        show_progress=False))
    return json.loads(t.to_str())


def learn_all(bundled, texts):
    """What the variants build on. "any" has tokens that cross the borders of words, so that most
    wrong borders show."""
    # A merge that makes the string of a special token is refused, so none may be learned.
    texts = [t.replace("[", "(") for t in texts]
    letters_ = pre_tokenizers.ByteLevel.alphabet()
    with open(bundled, encoding="utf-8") as f:
        return {"bundled": json.load(f), "words": learn(byte_level(), letters_, texts),
                "any": learn(byte_level(regex=False), letters_, texts),
                "few letters": learn(byte_level(), [], texts)}


def build(how, base, path):
    """Writes the tokenizer.json of a variant and opens it with the library."""
    spec = json.loads(json.dumps(base[how.get("base", "any")]))
    for key in ("unk_token", "fuse_unk", "ignore_merges"):
        spec["model"][key] = how.get(key, spec["model"][key])
    t = Tokenizer.from_str(json.dumps(spec))
    t.pre_tokenizer = how.get("pre", t.pre_tokenizer)
    t.decoder = decoders.ByteLevel()
    if "norm" in how:
        t.normalizer = how["norm"]
    t.add_tokens(how.get("added", []))
    spec = json.loads(t.to_str())
    if how.get("legacy"):
        spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    with open(path, "w", encoding="utf-8") as f:
        json.dump(spec, f, ensure_ascii=how.get("legacy", False))
    return Tokenizer.from_file(path), spec


# ---- comparison ------------------------------------------------------------------------------

def is_of_unicode_14(norm, text):
    """Whether the library's tables make of the text what Unicode 14 does."""
    return all(f().normalize_str(text) == unicodedata.normalize(f.__name__, text)
               for f in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD)
               if f.__name__ in norm)


def dump(program, path, mode, texts):
    data = b"".join(struct.pack("=I", len(b)) + b for b in (t.encode() for t in texts))
    out = subprocess.run([program, path, mode], input=data, stdout=subprocess.PIPE, check=True)
    at, got = 0, []
    while at < len(out.stdout):
        (n,) = struct.unpack_from("=I", out.stdout, at)
        if n == 0xFFFFFFFF:
            got.append((None, struct.unpack_from("=I", out.stdout, at + 4)[0]))
            at += 8
            continue
        ids = list(struct.unpack_from("=%di" % n, out.stdout, at + 4))
        (m,) = struct.unpack_from("=I", out.stdout, at + 4 + 4 * n)
        at += 8 + 4 * n
        got.append((ids, out.stdout[at:at + m].decode()))
        at += m
    return got


def letters():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {chr(b): b for b in keep} | {chr(256 + i): b for i, b in enumerate(rest)}


def decoder(spec):
    """Decoding by the rules of tokenizer_impl.h, which differ from the library's for some added
    tokens: it garbles those that are not ASCII, and shows some as the normalizer makes them."""
    letter = letters()
    made = {"".join(m) for m in spec["model"]["merges"]} | set(letter)
    raw = {}
    for token, i in spec["model"]["vocab"].items():
        known = all(c in letter for c in token)
        raw[i] = bytes(letter[c] for c in token) if known else token.encode()
    for t in spec["added_tokens"]:
        if t["special"]:
            raw[t["id"]] = b""
        elif t["content"] not in made:
            raw[t["id"]] = t["content"].encode()
    return lambda ids: b"".join(raw[i] for i in ids).decode("utf-8", "replace")


def compare(name, tokenizer, spec, program, path, texts):
    own = decoder(spec)
    same_decoder = all(t["content"].isascii() and not (t["normalized"] and spec["normalizer"])
                       for t in spec["added_tokens"])
    n_bad = n_ids = 0
    for mode in ("special", "plain"):
        tokenizer.encode_special_tokens = mode == "plain"
        want = tokenizer.encode_batch(texts, add_special_tokens=False)
        got = dump(program, path, mode, texts)
        if len(got) != len(texts):
            sys.exit(f"{name}: {len(got)} answers to {len(texts)} texts")
        for text, w, (ids, decoded) in zip(texts, want, got):
            n_ids += len(w.ids)
            back = own(w.ids)
            if same_decoder and back != tokenizer.decode(w.ids, skip_special_tokens=True):
                sys.exit(f"{name}: the oracle's own decoder is wrong for {text!r}")
            if ids == w.ids and decoded == back:
                continue
            n_bad += 1
            if n_bad <= 5:
                print(f"{name}, {mode}: {text!r}\n  library {w.ids} {back!r}\n  ours    {ids} "
                      f"{decoded!r}")
    return n_ids, n_bad


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--dump", required=True)
    a.add_argument("--bundled", required=True)
    a.add_argument("--texts", type=int, default=2000, help="for each tokenizer, its own")
    a.add_argument("--short", type=int, help="so many instead, unless RXT_FULL is set")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--every", action="store_true",
                   help="every code point, besides, for some; for two of them, unless RXT_FULL is set")
    a.add_argument("--only", help="one tokenizer")
    arg = a.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    full = os.environ.get("RXT_FULL")
    n_each = arg.short if arg.short and not full else arg.texts
    every = EVERY if full else [EVERY[0], EVERY[-1]]
    maker = Texts(arg.seed)
    base = learn_all(arg.bundled, maker.many(1500))
    n_texts = n_bad = n_variants = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        for name, how in variants().items():
            if arg.only and arg.only != name:
                continue
            tokenizer, spec = build(how, base, path)
            norm = json.dumps(spec["normalizer"])
            maker.cut = CUT + (FLAG_WORDS if "added" in how else [])
            made = maker.many(n_each)
            if arg.every and name in every:
                made += every_code_point()
            texts = [t for t in made if is_of_unicode_14(norm, t)]
            ids, bad = compare(name, tokenizer, spec, arg.dump, path, texts)
            print(f"{name}: {len(texts)} texts in 2 modes, {ids} ids, {bad} differ"
                  + (f", {len(made) - len(texts)} left out" if len(texts) < len(made) else ""))
            n_texts += len(texts)
            n_bad += bad
            n_variants += 1
    print(f"{n_variants} tokenizers, {n_texts} texts, {2 * n_texts} encodings, {n_bad} differ")
    sys.exit(n_bad > 0 or n_texts == 0)


if __name__ == "__main__":
    main()
