"""The page of rxt load in headless Chromium, with all the charts that it can have: the browser reads
what was written, charts are drawn inside their frames, and it is laid out on screens light and dark
and on paper as it is meant to be."""

import html
import json
import pathlib
import re
import sys
import tempfile

from inspect_page import chromium, nothing_is_cut_on_paper, paper, screens
from load import Page, free_port, load, serve

CHARTS = {"first_token_by_turn", "turn_by_turn", "memory_by_turn", "distribution", "server_bytes",
          "server_queues", "baseline_chart"}


def make_page(folder):
    """A run that has everything; its JSON."""
    port = free_port()
    server = serve(folder, port)
    try:
        done, run = load(
            folder, "--sessions", 4, "--turns", 20, "--rate", 30, "--max-tokens", 4, "--baseline", "history",
            "--metrics", f"http://127.0.0.1:{port}/metrics", "--pid", server.pid, "--store",
            folder / "store.db", "--html", folder / "run.html",
        )
    finally:
        server.terminate()
        assert server.wait(timeout=600) == 0
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    return run


def check_structure(text, run):
    page = Page(text)
    assert set(page.charts) == CHARTS and all(n >= 2 for n in page.charts.values()), page.charts
    assert page.sections == [key for key in run if key != "title"], page.sections
    assert page.links == [], "nothing is fetched, no script runs"
    return page.sections, page.charts


def charts_are_drawn(folder, page):
    """Of each chart: lines and words inside its frame, on a narrow screen and a wide one."""
    probe = """
      [...document.querySelectorAll('svg[data-series]')].map(svg => {
        const frame = svg.getBoundingClientRect();
        const inside = r => r.left >= frame.left - 1 && r.right <= frame.right + 1 &&
                            r.top >= frame.top - 1 && r.bottom <= frame.bottom + 1;
        const marks = [...svg.querySelectorAll('path, polyline, polygon, circle, rect, line')];
        const words = [...svg.querySelectorAll('text')];
        return {width: frame.width, height: frame.height,
                marks: marks.length, marks_out: marks.filter(e => !inside(e.getBoundingClientRect())).length,
                words: words.length, words_out: words.filter(e => !inside(e.getBoundingClientRect())).map(e => e.textContent),
                body: document.body.clientWidth}})"""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    measured = folder / "measured.html"
    measured.write_text(text.replace(
        "</body>", f"<script>document.body.dataset.charts = JSON.stringify({probe})</script></body>"))
    for width in (500, 1100):
        shown = chromium(folder, measured, "--dump-dom", f"--window-size={width},900")
        charts = json.loads(html.unescape(re.search(r'data-charts="([^"]*)"', shown)[1]))
        assert len(charts) == len(CHARTS), charts
        for c in charts:
            assert 200 < c["width"] <= c["body"] and c["height"] > 80, c
            assert c["marks"] > 2 and c["words"] > 4, c
            assert c["marks_out"] == 0 and c["words_out"] == [], c


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = make_page(folder)
        page = folder / "run.html"
        written = check_structure(page.read_text(), run)
        assert check_structure(chromium(folder, page, "--dump-dom"), run) == written
        charts_are_drawn(folder, page)
        screens(folder, page)
        nothing_is_cut_on_paper(folder, page)
        paper(folder, page)
    print("the page is as expected")


if __name__ == "__main__":
    sys.exit(main())
