"""Byte-level BPE of a tokenizer.json in plain Python: fast where words repeat, and it tells where
in the text each token lies. `rxt_train.tokenizer` trains the file."""

import json
import re

# The GPT-2 expression. [^\W\d_] is \p{L}; the classes differ from Unicode's only in number signs
# such as superscripts, which the texts do not have.
SPLIT = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", re.UNICODE
)

CACHED = 200_000  # words


def byte_alphabet():
    """byte -> character, as the byte-level pre-tokeniser maps them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = {}, 0
    for byte in range(256):
        if byte in kept:
            out[byte] = chr(byte)
        else:
            out[byte] = chr(256 + extra)
            extra += 1
    return out


class Bpe:
    """Encodes and decodes; special tokens only by id, never by their strings in a text."""

    def __init__(self, tokenizer_json):
        data = json.loads(tokenizer_json)
        if data["pre_tokenizer"] != {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }:
            raise ValueError("tokenizer.json: only a ByteLevel pre-tokeniser without prefix space")
        model = data["model"]
        self.vocab = model["vocab"]
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        self.rank = {pair: i for i, pair in enumerate(pairs)}
        self.special = {t["content"]: t["id"] for t in data["added_tokens"]}
        self.n_vocab = len(self.vocab)
        self._alphabet = byte_alphabet()
        self._bytes = {c: b for b, c in self._alphabet.items()}
        self._text = {i: t for t, i in self.vocab.items() if t not in self.special}
        self._cache = {}
        for name in ("PAD", "BOS", "EOS", "Q", "A"):
            setattr(self, name.lower(), self.special[f"[{name}]"])

    @staticmethod
    def load(path):
        with open(path, encoding="utf-8") as f:
            return Bpe(f.read())

    def token_ids(self):
        """The ids config.json carries."""
        names = {"pad": "PAD", "bos": "BOS", "eos": "EOS", "query": "Q", "answer": "A"}
        return {name: self.special[f"[{token}]"] for name, token in names.items()}

    def _word(self, word):
        parts = [self._alphabet[b] for b in word.encode("utf-8")]
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:]))
            best = min(pairs, key=lambda p: self.rank.get(p, len(self.rank)))
            if best not in self.rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [best[0] + best[1]]
        return [self.vocab[p] for p in parts]

    def _cached(self, word):
        ids = self._cache.get(word)
        if ids is None:
            if len(self._cache) >= CACHED:  # made-up words come without end
                self._cache.clear()
            ids = self._cache[word] = self._word(word)
        return ids

    def encode(self, text):
        """The ids of a text without special tokens."""
        out, cache = [], self._cache
        for word in SPLIT.findall(text):
            out += cache.get(word) or self._cached(word)
        return out

    def encode_spans(self, text, spans):
        """(ids, marks): mark 1 for the tokens of words that overlap a span [first, last)."""
        ids, marks, at = [], [], 0
        for word in SPLIT.findall(text):
            found = self._cached(word)
            first, at = at + (word[0] == " "), at + len(word)
            inside = any(first < b and at > a for a, b in spans)
            ids += found
            marks += [int(inside)] * len(found)
        return ids, marks

    def decode(self, ids):
        """Text of ids; special tokens are skipped, invalid bytes become U+FFFD."""
        text = "".join(self._text.get(i, "") for i in ids)
        return bytes(self._bytes[c] for c in text).decode("utf-8", errors="replace")
