"""What the documents promise, read out of them: the suite measures itself against these tables."""

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "bridge" / "PROTOCOL.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()


def section(text, heading):
    """What stands between a heading and the next one of its level."""
    level = heading.split(" ")[0]
    match = re.search(rf"^{re.escape(heading)}[^\n]*\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.M | re.S)
    assert match, heading
    return match[1]


def rows(text):
    """The rows of the tables in a text, without headings, as lists of cells."""
    cells = [
        [c.strip() for c in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    ruled = [k for k, row in enumerate(cells) if all(set(c) <= {"-"} for c in row)]
    skip = set(ruled) | {k - 1 for k in ruled}
    return [row for k, row in enumerate(cells) if k not in skip]


class Error(NamedTuple):
    code: int
    name: str
    retryable: bool


CLIENT_TYPES = {r[1]: int(r[0], 16) for r in rows(section(PROTOCOL, "### 4.1")) if r[0].startswith("0x")}
SERVER_TYPES = {r[1]: int(r[0], 16) for r in rows(section(PROTOCOL, "### 4.2")) if r[0].startswith("0x")}
ENDPOINTS = {r[1]: r[2] for r in rows(section(PROTOCOL, "### 4.1")) if r[0].startswith("0x")}
ERRORS = {int(r[0]): Error(int(r[0]), r[1], r[3] == "yes") for r in rows(section(PROTOCOL, "## 6. Errors"))}
DESIGN_ROWS = [r[0] for r in rows(section(DESIGN, "## 8."))]
assert len(CLIENT_TYPES) > 20 and len(SERVER_TYPES) > 10 and len(ERRORS) > 30 and len(DESIGN_ROWS) > 10


def keys_of(name):
    """Keys of a message of the client: {key: whether it must be there}."""
    text = section(PROTOCOL, "### 4.1")
    part = re.search(rf"\*\*{name}\*\*.*?(?=^\*\*[A-Z]|\Z)", text, re.M | re.S)[0]
    keys = {}
    for row in rows(part):
        for key in row[0].split(", "):
            keys[key.strip("* ")] = key.startswith("**")
    if not keys:  # `{key: type, key: type = default}`
        braces = re.match(r"\*\*\w+\*\* `\{(.*?)\}`", part)
        for entry in filter(None, re.split(r", (?=\w+: )", braces[1])):
            keys[entry.split(":")[0]] = "=" not in entry
    return keys
