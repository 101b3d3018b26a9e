"""rxt inspect: what it shows of stores and exports, and what it keeps to itself."""

import fcntl
import json
import math
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import zlib
from html.parser import HTMLParser

from run_rxt import DIM, LAYERS, MODEL, QUERIES, RXT, SLOTS, chat, run

SECRETS = ["Anna", "Bruno", "Oslo"]


def inspect(*arguments, check=True):
    return run(["inspect", *arguments], check=check)


def as_json(*arguments):
    return json.loads(inspect(*arguments, "--json").stdout)


def make_store(folder):
    store = folder / "a.db"
    _, turns = chat(store, QUERIES[:6], session="anna")
    run(["session", "fork", "anna", "--to", "bob", "--version", 4, "--store", store])
    chat(store, ["my dog is called Rex"], session="bob")
    run(["session", "rewind", "bob", "--version", 2, "--store", store])
    chat(store, ["\x1b[2Jthanks"], session="bob")
    run(["session", "reset", "bob", "--store", store])
    run(["session", "export", "anna", "--file", folder / "anna.rxt", "--store", store])
    return store, turns


# ---- lists ------------------------------------------------------------------------------------


def lists(store, export):
    sessions = as_json(store)["sessions"]
    assert [s["session"] for s in sessions] == ["anna", "bob"]
    anna, bob = sessions
    assert anna["version"] == 6 and bob["version"] == 8 and bob["origin"] == "anna", sessions
    assert anna["memory_bytes"] == LAYERS * SLOTS * DIM * 4 == anna["image_bytes"] // anna["images"]
    assert anna["state"] == "ready" and anna["tier"] == "store" and anna["pending"] == 0
    by_version = as_json(store, "--sort", "version", "--reverse")["sessions"]
    assert [s["session"] for s in by_version] == ["bob", "anna"]
    assert [s["session"] for s in as_json(store, "--filter", "an")["sessions"]] == ["anna"]
    assert len(as_json(store, "--filter", "ready")["sessions"]) == 2
    assert as_json(store, "--filter", "held")["sessions"] == []
    assert as_json(store, "--tenant", "nobody")["sessions"] == []
    only = as_json(export)
    assert only["session"]["tier"] == "export" and len(only["turns"]) == 6


def refusals(store, folder):
    for arguments, word in [
        ([store, "--version", 99, "--session", "anna"], "0 to 6"),
        ([store, "--session", "anna", "--against", "carl"], "carl"),
        ([store, "--session", "anna", "--against", "7"], "0 to 6"),
        ([store, "--session", "nobody"], "nobody"),
        ([store, "--version", 1], "--session"),
        ([store, "--sort", "colour"], "image_bytes"),
        ([store, "--png", folder / "x.png"], "no map"),
        ([folder / "none"], "none"),
        ([MODEL / "config.json"], "config.json"),
    ]:
        done = inspect(*arguments, check=False)
        assert done.returncode == 1 and word in done.stderr, (arguments, done.stderr)
    for arguments in [["--replay"], ["--verify", "--png", "x"], ["--session", "a", "--sort", "age"]]:
        assert inspect(store, *arguments, check=False).returncode == 2, arguments


# ---- turns and versions -----------------------------------------------------------------------


def turns_and_versions(store, said):
    shown = as_json(store, "--session", "anna")
    turns = shown["turns"]
    assert [t["version"] for t in turns] == [1, 2, 3, 4, 5, 6]
    assert [t["answer_tokens"] for t in turns] == [len(t["answer_ids"]) for t in said]
    for t in turns:
        assert 0 < t["take"] < 1 and 0 < t["keep"] < 1 and t["change"] > 0, t
    written = shown["written"]
    assert len(written["values"]) == LAYERS and len(written["values"][0]) == 6
    for hold in shown["holds"]:
        assert 1 <= hold["version"] <= 6 and hold["held"] == 6 - hold["version"]
        assert shown["holder"]["values"][hold["layer"]][hold["slot"]] == hold["version"]
    assert [t["version"] for t in as_json(store, "--session", "anna", "--turns", 2)["turns"]] == [5, 6]

    for v in range(7):
        version = as_json(store, "--session", "anna", "--version", v)["version"]
        if v > 0:
            assert version["stm_hash"] == said[v - 1]["stm_hash"], v
            assert version["change"] == turns[v - 1]["change"], v
        else:
            assert "against" not in version

    kinds = [t["kind"] for t in as_json(store, "--session", "bob")["turns"]]
    assert kinds == ["turn"] * 5 + ["rewind", "turn", "reset"], kinds
    hash_of = lambda v: as_json(store, "--session", "bob", "--version", v)["version"]["stm_hash"]
    assert hash_of(6) == said[1]["stm_hash"] and hash_of(8) == hash_of(0)

    same = as_json(store, "--session", "bob", "--version", 4, "--against", "anna:4")
    assert same["version"]["change"] == 0 and same["version"]["against_session"] == "anna"
    other = as_json(store, "--session", "bob", "--version", 5, "--against", "anna")
    assert other["version"]["against"] == 6 and other["version"]["change"] > 0
    back = as_json(store, "--session", "anna", "--version", 6, "--against", "5")
    forth = as_json(store, "--session", "anna", "--version", 5, "--against", "6")
    assert back["slot_change"]["values"] == forth["slot_change"]["values"]
    assert "gate_take" in back and len(back["layers"]) == LAYERS


def questions(store):
    shown = as_json(store, "--session", "anna", "--query", "What is my name?", "--layer", 2)
    tokens = len(shown["entropy"]["values"][0])
    layer = shown["attention_layer_2"]["values"]
    assert len(layer) == tokens and len(layer[0]) == SLOTS and "attention_layer_1" not in shown
    for t, row in enumerate(layer):
        assert abs(sum(row) - 1) < 1e-5
        assert 0 <= shown["entropy"]["values"][2][t] <= math.log2(SLOTS) + 1e-5
    assert layer[-1] == shown["attention_last"]["values"][2]
    holder = as_json(store, "--session", "anna")["holder"]["values"]
    for reads in shown["reads"]:
        assert reads["version"] == holder[reads["layer"]][reads["slot"]]
        assert reads["last_version"] == holder[reads["layer"]][reads["last_slot"]]
    assert "norm" not in shown
    both = as_json(store, "--session", "anna", "--query", "hi", "--version", 0, "--against", 3)
    assert "reads" in both and "slot_change" in both


def forks_and_halves(store):
    """A session that begins at an image, and one of bf16, beside one of float32."""
    run(["session", "fork", "anna", "--to", "carl", "--store", store])
    chat(store, ["i like tea"], session="carl")
    shown = as_json(store, "--session", "carl")
    assert shown["session"]["base"] == 6 and [t["version"] for t in shown["turns"]] == [7]
    assert shown["written"]["first_column"] == 7
    assert inspect(store, "--session", "carl", "--version", 5, check=False).returncode == 1
    start = as_json(store, "--session", "carl", "--version", 6, "--against", "anna")
    assert start["version"]["change"] == 0
    chat(store, QUERIES[:2], session="half", options=["--stm-dtype", "bf16"])
    half = as_json(store, "--session", "half", "--version", 1, "--against", "anna:1")["version"]
    assert half["stm_dtype"] == "bf16" and 0 < half["change"] < 0.1, half
    verified = as_json(store, "--verify", "--replay")["checks"]
    assert all(c["good"] for c in verified), verified
    replayed = [c["session"] for c in verified if c["check"] == "replay"]
    assert replayed == ["anna", "bob", "carl", "half"]


def while_in_use(store):
    """Another process has the store and writes: looking on needs no lease and sees what is there."""
    chatting = subprocess.Popen(
        [RXT, "chat", "--store", store, "--session", "live", "--script", "-", "--json", "--model", MODEL],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    for version in (1, 2):
        print("hi", file=chatting.stdin, flush=True)
        told = json.loads(chatting.stdout.readline())
        shown = as_json(store, "--session", "live", "--version", version)["version"]
        assert shown["stm_hash"] == told["stm_hash"] and told["version"] == version
    chatting.stdin.close()
    assert chatting.wait() == 0


# ---- text of users ----------------------------------------------------------------------------


def text_only_on_request(store, folder):
    outputs = []
    for view in [[], ["--session", "anna"], ["--session", "anna", "--version", 3],
                 ["--session", "anna", "--verify"]]:
        for how in [[], ["--json"]]:
            outputs.append(inspect(store, *view, *how).stdout)
    page = folder / "quiet.html"
    inspect(store, "--session", "anna", "--html", page)
    outputs.append(page.read_text())
    for output in outputs:
        for secret in SECRETS:
            assert secret not in output, secret
    for how in [[], ["--json"]]:
        spoken = inspect(store, "--session", "anna", "--text", *how).stdout
        assert all(secret in spoken for secret in SECRETS)
    inspect(store, "--session", "anna", "--text", "--html", page)
    assert all(secret in page.read_text() for secret in SECRETS)
    obeyed = inspect(store, "--session", "bob", "--text").stdout
    assert "thanks" in obeyed and "\x1b" not in obeyed


# ---- pictures ---------------------------------------------------------------------------------


def terminal(arguments, columns, env):
    """What a terminal of so many columns gets."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [RXT, "inspect", *map(str, arguments), "--model", str(MODEL)],
        stdout=child, stdin=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", **env},
    )
    os.close(child)
    output = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    os.close(main)
    assert process.wait() == 0
    return output.decode().replace("\r\n", "\n")


def terminals(store):
    arguments = [store, "--session", "anna", "--version", 6]
    plain = inspect(*arguments).stdout
    assert "\x1b" not in plain and "@" in plain
    for columns in (20, 40, 80, 200):
        for env in ({"COLORTERM": "truecolor"}, {"COLORTERM": ""}, {"NO_COLOR": "1"}):
            output = terminal(arguments, columns, env)
            assert ("\x1b[48;2;" in output) == (env.get("COLORTERM") == "truecolor")
            assert ("\x1b[48;5;" in output) == (env.get("COLORTERM") == "")
            for line in output.split("\n"):
                assert line.rfind("\x1b[48") <= max(line.rfind("\x1b[0m"), 0), "a colour runs on"
            cells = [line for line in output.split("\n")
                     if re.match(r" *\d+ \x1b\[48", line) and line.endswith("\x1b[0m")]
            assert len(cells) == ("COLORTERM" in env) * 6 * LAYERS, output
            for line in cells:
                width = len(re.sub(r"\x1b\[[0-9;]*m", "", line))
                assert width <= columns, (columns, width)
                assert columns < 80 or width > columns // 2, (columns, width)
        assert ("mean of" in output) == (columns < len("slot ") + SLOTS)


def png(store, folder):
    path = folder / "map.png"
    inspect(store, "--session", "anna", "--version", 6, "--png", path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, pixels = 8, b""
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n : at + 12 + n])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT":
            pixels += body
        at += 12 + n
    assert (depth, colour) == (8, 2)
    lines = zlib.decompress(pixels)
    assert len(lines) == height * (1 + 3 * width)
    starts = [r * (1 + 3 * width) + 1 + 3 * c for r in range(height) for c in range(width)]
    seen = {lines[at : at + 3] for at in starts}
    assert bytes((12, 12, 48)) in seen and bytes((250, 238, 150)) in seen and len(seen) > 100


class Page(HTMLParser):
    """Sections with the number of table rows and of cells in them."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.open, self.tags = {}, None, []
        self.feed(text)
        self.close()
        assert not self.tags, self.tags

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("src", "href", "xlink:href"):
            assert name not in attributes, attributes
        if tag not in ("meta", "link"):
            self.tags.append(tag)
        if tag == "section":
            self.open = self.sections[attributes["id"]] = {"rows": 0, "titled": 0, "cells": None}
        if tag == "svg":
            self.open["cells"] = int(attributes["data-rows"]) * int(attributes["data-columns"])
        if tag == "tr":
            self.open["rows"] += 1
        if tag == "title" and self.open:
            self.open["titled"] += 1

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.tags.pop()

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag, tag


def check_page(text):
    assert "default-src 'none'" in text and "<script" not in text
    assert "@media print" in text and "prefers-color-scheme: dark" in text
    sections = Page(text).sections
    for key in ["session", "turns", "said", "holds", "version", "layers", "reads"]:
        assert sections[key]["rows"] > 1, key
    for key in ["written", "half_life", "norm", "slot_change", "gate_take", "entropy"]:
        assert sections[key]["cells"], key
    assert sum(key.startswith("attention_layer_") for key in sections) == LAYERS
    assert sections["norm"]["cells"] == LAYERS * SLOTS
    assert sections["turns"]["rows"] == 1 + 6
    for key, section in sections.items():
        assert section["cells"] in (None, section["titled"]), key
    return sections


def make_page(store, path):
    inspect(store, "--session", "anna", "--query", "what is my <name>?", "--text", "--html", path)
    return path.read_text()


def page(store, folder):
    text = make_page(store, folder / "page.html")
    check_page(text)
    assert "my <name>" not in text


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store, said = make_store(folder)
        lists(store, folder / "anna.rxt")
        refusals(store, folder)
        turns_and_versions(store, said)
        questions(store)
        text_only_on_request(store, folder)
        terminals(store)
        png(store, folder)
        page(store, folder)
        forks_and_halves(store)
        while_in_use(store)
    print("inspect: all as expected")


if __name__ == "__main__":
    sys.exit(main())
