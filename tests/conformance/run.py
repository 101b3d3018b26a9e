"""The conformance suite of RXTP/1: cases against the built rxtd (environment RXTD), on pyzmq and
msgpack alone.

usage: run.py [CASE...]   the cases whose names begin so. Without names: all, what was driven by none,
                          and mutations.py, which breaks one rule of the server at a time: the suite
                          must fail each time"""

import importlib
import pathlib
import sys
import time
from multiprocessing.pool import ThreadPool

import document
from mutations import run_mutations
from rxtp import Seen
from suite import AT_ONCE, CASES, run_case

# Codes that no case brings about, and why.
UNDRIVEN = {
    404: "an error of a device; the CPU backend has none",
    410: "a bug of the server",
}

# Cases that the server does not pass yet, and what it does instead. They count as failed nowhere and
# as passed nowhere; one that passes must leave this table, or the suite fails.
PENDING = {}

for path in sorted(pathlib.Path(__file__).parent.glob("case_*.py")):
    importlib.import_module(path.stem)


def undriven(seen, passed):
    """What the documents name and the cases have not brought about."""
    for name in document.CLIENT_TYPES:
        if not seen.sent[name, None]:
            yield f"message {name} was never sent"
        for key in document.keys_of(name):
            if not seen.sent[name, key]:
                yield f"key {key} of {name} was never sent"
    for name in document.SERVER_TYPES:
        if not seen.came[name] and name != "PING":  # which a server may send
            yield f"message {name} never came"
    for code, error in document.ERRORS.items():
        if not seen.codes[code] and code not in UNDRIVEN:
            yield f"error {code} {error.name} never came"
    shown = {row for c in passed for row in c.rows}
    for row in document.DESIGN_ROWS:
        if row not in shown:
            yield f"no case shows the row {row!r} of design 8"


def report(name, error):
    print(f"FAILED {name}: {type(error).__name__}: {error}")
    tb = error.__traceback__
    while tb:
        file = pathlib.Path(tb.tb_frame.f_code.co_filename).name
        if file.startswith("case_"):
            print(f"    {file}:{tb.tb_lineno}")
        tb = tb.tb_next
    for note in getattr(error, "__notes__", ()):
        print("    " + note.replace("\n", "\n    "))


def run_one(c):
    """(case, what went over the wire, None) or (case, None, what was wrong)."""
    began = time.monotonic()
    try:
        seen = run_case(c)
    except Exception as e:
        return c, None, e
    print(f"passed {c.name} ({time.monotonic() - began:.1f} s)", flush=True)
    return c, seen, None


def run_all(prefixes):
    chosen = [c for c in CASES if not prefixes or c.name.startswith(tuple(prefixes))]
    seen, passed, failed, pending, start = Seen(), [], [], [], time.monotonic()
    seen_by = []
    with ThreadPool(AT_ONCE) as pool:
        done = pool.map(run_one, chosen, chunksize=1)
    for c, saw, error in done:
        if error is None:
            passed.append(c)
            seen_by.append((c, saw))
            seen.add(saw)
            if c.name in PENDING:
                failed.append(c)
                print(f"FAILED {c.name}: it passes, take it out of PENDING")
        elif c.name in PENDING:
            pending.append(c)
            print(f"pending {c.name}: {PENDING[c.name]}")
        else:
            failed.append(c)
            report(c.name, error)
    missing = [] if prefixes else list(undriven(seen, passed))
    for line in missing:
        print("FAILED coverage:", line)
    took = time.monotonic() - start
    print(f"{len(passed)} of {len(chosen)} cases passed, {len(failed)} failed, {len(pending)} pending, "
          f"{len(missing)} undriven, {took:.0f} s")
    ok = bool(passed) and not failed and not missing
    return ok if prefixes else run_mutations(seen_by) and ok


if __name__ == "__main__":
    sys.exit(not run_all(sys.argv[1:]))
