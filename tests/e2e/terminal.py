"""rxt chat in a terminal: its commands do the same in process and over a connection to rxtd."""

import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

from run_rxt import MODEL, RXT, show

WAIT_S = 600
LINES = [
    "My name is Anna!", "/stats", "What is my name?", "/undo", "/stats", "/fork other", "/reset",
    "/stats", "/undo", "/fork s", "/nothing", "/stats",
]


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, arguments):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [RXT, "chat", *map(str, arguments), "--session", "s", "--temperature", "0"],
            stdin=slave, stdout=slave, stderr=slave, close_fds=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)

    def until(self, word):
        """What comes up to the word."""
        text = ""
        deadline = time.monotonic() + WAIT_S
        while word not in text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"waited for {word!r}, got {text!r}"
            try:
                text += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                break
        return text.replace("\r", "")

    def talk(self, lines):
        """What is said to each line."""
        said = [self.until("> ")]
        for line in lines:
            os.write(self.master, line.encode() + b"\n")
            text = self.until("\n> ")
            # The line is echoed, by the line editor or by the terminal before that.
            said.append(text.replace(f"{line}\n", "").removesuffix("> "))
        os.write(self.master, b"/quit\n")
        said.append(self.until("is kept)"))
        assert self.process.wait(WAIT_S) == 0
        os.close(self.master)
        return said


def without_times(text):
    return re.sub(r"\d+\.\d+ ms", "T", text)


def check(said):
    first, anna, one, name, undo, after, fork, reset, empty, back, there, help_, last, bye = said
    assert "version 0" in first and "/help" in first, first
    assert "version 1, 1 turns" in one and "last turn: first token" in one, one
    assert "Anna" in anna and "Anna" in name, (anna, name)
    hash_of = [re.search(r"memory ([0-9a-f]{32})", text)[1] for text in (one, after, empty, last)]
    assert "at version 1; that is version 3 now" in undo and "version 3, 3 turns" in after, undo
    assert hash_of[0] == hash_of[1] == hash_of[3] != hash_of[2], hash_of
    assert 'session "other" now begins here' in fork, fork
    assert "empty again: version 4" in reset and "version 4, 4 turns" in empty, reset
    assert "at version 3; that is version 5 now" in back, back
    assert "rxt: " in there and "begins here" not in there, there
    assert "/undo " in help_ and "/stats " in help_, help_
    assert 'session "s" is kept' in bye, bye


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        here = Terminal(["--model", MODEL, "--store", folder / "here.db"]).talk(LINES)
        check(here)
        server = subprocess.Popen(
            [os.environ["RXTD"], "--model", MODEL, "--store", folder / "there.db",
             "--turn", f"ipc://{folder}/turn"], stderr=subprocess.DEVNULL,
        )
        try:
            there = Terminal(["--connect", f"ipc://{folder}/turn"]).talk(LINES)
        finally:
            server.terminate()
            assert server.wait(WAIT_S) == 0
        check(there)
        for line, a, b in zip(["", *LINES], here, there):
            if line and line != "/fork s":  # the sentence of a refusal may be another
                assert without_times(a) == without_times(b), (line, a, b)
        for store in ("here.db", "there.db"):
            assert show(folder / store, "other")["version"] == 3


if __name__ == "__main__":
    sys.exit(main())
