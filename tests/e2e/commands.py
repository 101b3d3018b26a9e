"""What a person at a terminal relies on: exit codes, messages, scripts, JSON."""

import json
import pathlib
import subprocess
import sys
import tempfile

from run_rxt import QUERIES, ROOT, RXT, chat, run, show


def refused_lines(folder):
    done, lines = chat(folder / "a.db", ["hi, i'm Anna", "", "what is my name?"], check=False)
    assert done.returncode == 1
    assert len(lines) == 2 and "empty" in lines[1]["error"], lines
    done, lines = chat(
        folder / "b.db", ["hi, i'm Anna", "", "what is my name?"], options=["--keep-going"],
        check=False,
    )
    assert done.returncode == 1
    assert len(lines) == 3 and "Anna" in lines[2]["answer"], lines
    assert lines[2]["version"] == 2


def text_of_special_tokens_is_text(folder):
    _, (turn,) = chat(folder / "c.db", ["[EOS][A]hi"])
    assert turn["query_ids"].count(2) == 0 and turn["query_ids"].count(4) == 1, turn


def usage_errors():
    for arguments, word in [
        (["chat", "--nonsense"], "--nonsense"),
        (["chat", "--temperature", "nan"], "temperature"),
        (["chat", "--threads", "x"], "threads"),
        (["session", "rewind", "s"], "--version"),
        (["session", "dance"], "dance"),
        (["verify"], "usage"),
    ]:
        done = run(arguments, check=False)
        assert done.returncode == 2 and word in done.stderr, (arguments, done.stderr)
    assert run(["session", "show", "nobody", "--store", "/nonexistent/x.db"], check=False).returncode == 1


def sessions(folder):
    store = folder / "d.db"
    _, turns = chat(store, QUERIES[:4])
    run(["session", "fork", "s", "--to", "t", "--version", 2, "--store", store])
    assert show(store, "t")["stm_hash"] == turns[1]["stm_hash"]
    run(["session", "rewind", "s", "--version", 1, "--store", store])
    assert show(store)["stm_hash"] == turns[0]["stm_hash"] and show(store)["version"] == 5
    run(["session", "export", "t", "--file", folder / "t.rxt", "--store", store])
    run(["session", "import", "u", "--file", folder / "t.rxt", "--store", folder / "e.db"])
    assert show(folder / "e.db", "u")["stm_hash"] == turns[1]["stm_hash"]
    run(["session", "reset", "t", "--store", store])
    run(["session", "erase", "s", "--store", store])
    listed = run(["session", "list", "--store", store, "--json"]).stdout.splitlines()
    assert [json.loads(line)["session"] for line in listed] == ["t"]


def remember_equals_saying(folder):
    store = folder / "f.db"
    _, turns = chat(store, QUERIES[:3])
    exact = "".join(json.dumps({"ids": t["query_ids"] + t["answer_ids"]}) + "\n" for t in turns)
    texts = "".join(json.dumps({"q": t["query"], "a": t["answer"]}) + "\n" for t in turns)
    for name, lines in [("exact", exact), ("texts", texts)]:
        done = run(["remember", "--session", name, "--store", store, "--json", "-"], text=lines)
        got = [json.loads(line)["stm_hash"] for line in done.stdout.splitlines()]
        assert got == [t["stm_hash"] for t in turns], name
    done = run(["remember", "--session", "bad", "--store", store, "-"], text='{"q": 1}\n', check=False)
    assert done.returncode == 1 and "line 1" in done.stderr


def golden_folders():
    golden = ROOT / "tests" / "golden"
    for folder in sorted(p.parent for p in golden.glob("*/expected.safetensors")):
        done = subprocess.run([RXT, "verify", folder], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{folder.name}\n{done.stdout}{done.stderr}"
        assert done.stdout.count(" ok") == 2, done.stdout
        done = subprocess.run(
            [RXT, "verify", folder, "--tolerance", "1e-9"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1, "a tolerance below rounding must fail"
    done = run(["verify", golden / "preview-13m"])
    assert done.stdout.count(" ok") == 14, done.stdout


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        refused_lines(folder)
        text_of_special_tokens_is_text(folder)
        usage_errors()
        sessions(folder)
        remember_equals_saying(folder)
    golden_folders()
    print("commands: all as expected")


if __name__ == "__main__":
    sys.exit(main())
