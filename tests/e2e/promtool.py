"""promtool reads the metrics of a server that has answered, and finds nothing to complain about."""

import os
import pathlib
import subprocess
import tempfile

from load import free_port, load, metrics, serve


def main():
    with tempfile.TemporaryDirectory() as name:
        folder, port = pathlib.Path(name), free_port()
        server = serve(folder, port)
        try:
            load(folder, "--sessions", 2, "--turns", 3, "--rate", 20, "--max-tokens", 2)
            text = metrics(port)
        finally:
            server.terminate()
            assert server.wait(timeout=600) == 0

        def check(text):
            return subprocess.run([os.environ["PROMTOOL"], "check", "metrics"], input=text, text=True,
                                  capture_output=True, timeout=60)

        good = check(text)
        assert (good.returncode, good.stdout + good.stderr) == (0, ""), good
        assert "rxt_turns_total 6\n" in text, text
        bad = check(text.replace("# TYPE rxt_turns_total counter", "# TYPE rxt_turns_total gauge"))
        assert bad.returncode != 0 and "rxt_turns_total" in bad.stdout + bad.stderr, bad


if __name__ == "__main__":
    main()
