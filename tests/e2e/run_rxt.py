"""Running the rxt program from a test: one place for its path, its model and its scripts."""

import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
RXT = os.environ["RXT"]
MODEL = ROOT / "models" / "demo-15m"
CONFIG = json.loads((MODEL / "config.json").read_text())
LAYERS, SLOTS, DIM = (CONFIG["memory_attention_config"][key]
                      for key in ("num_layers", "stm_size", "embed_dim"))
CONVERSATION = json.loads(
    (ROOT / "tests" / "golden" / "demo-15m" / "conversation.json").read_text()
)
QUERIES = [turn["query"] for turn in CONVERSATION]


def run(arguments, *, env=None, text=None, check=True):
    """Runs rxt with the bundled model; returns the finished process."""
    done = subprocess.run(
        [RXT, *map(str, arguments), "--model", str(MODEL)],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=600,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"rxt {arguments}: exit {done.returncode}\n{done.stderr}")
    return done


def chat(store, queries, *, session="s", env=None, options=(), check=True):
    """Plays queries; returns (process, one object a reported turn)."""
    done = run(
        ["chat", "--store", store, "--session", session, "--seed", 7, "--temperature", 0,
         "--script", "-", "--json", *options],
        env=env,
        text="".join(q + "\n" for q in queries),
        check=check,
    )
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def remember(store, turns, session="s"):
    """Absorbs lists of token ids into a new session; (version, stm_hash) of each."""
    lines = "".join(json.dumps({"ids": ids}) + "\n" for ids in turns)
    done = run(["remember", "-", "--store", store, "--session", session, "--json"], text=lines)
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(store, session="s"):
    return json.loads(run(["session", "show", session, "--store", store, "--json"]).stdout)
