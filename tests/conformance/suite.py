"""What the cases have in common: how one is declared, found and run."""

from typing import Callable, NamedTuple

import document
from rxtp import Seen
from server import Server

CASES = []
AT_ONCE = 4  # cases that run at the same time: most of theirs is waiting


class Case(NamedTuple):
    name: str
    run: Callable
    rows: tuple  # of design 8 that it shows
    own: bool  # makes its servers itself
    options: dict


def case(*, rows=(), own=False, **options):
    """Declares a test. It is called with a running server of these options; with own=True, with a
    function that makes servers."""
    for row in rows:
        assert row in document.DESIGN_ROWS, f"design 8 has no row {row!r}"

    def register(run):
        name = f"{run.__module__.removeprefix('case_')}.{run.__name__}"
        CASES.append(Case(name, run, tuple(rows), own, options))
        return run

    return register


def run_case(c, between=None):
    """Runs one case; raises what it raises. Returns what went over the wire."""
    servers = []
    seen = Seen()

    def make(**options):
        servers.append(Server(between=between, **options))
        return servers[-1]

    try:
        if c.own:
            c.run(make)
        else:
            server = make(**c.options).start()
            c.run(server)
            server.stop()
    except BaseException as e:
        for server in servers:
            if log := server.read_log():
                e.add_note(f"log of rxtd:\n{log[-2000:]}")
        raise
    finally:
        for server in servers:
            seen.add(server.seen)
            server.close()
    return seen
