"""The page of rxt inspect in headless Chromium: it is laid out as it is meant to be, on screens light
and dark and on paper, fetches nothing and complains about nothing."""

import html
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zlib

from inspect_sessions import check_page, make_page
from run_rxt import QUERIES, chat


def chromium(folder, page, *options):
    done = subprocess.run(
        [os.environ["CHROMIUM"], "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}",
         "--disable-background-networking", *options, page.as_uri()],
        capture_output=True, text=True, timeout=110, cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr  # violations of the page's own policy, too
    return done.stdout


def pixels(path):
    """Width, height, and the lines of an 8-bit PNG without interlace, unfiltered."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[at + 8 : at + 21])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + n]
        at += 12 + n
    assert (depth, interlace) == (8, 0) and colour in (2, 6)
    step, raw = (3 if colour == 2 else 4), zlib.decompress(packed)
    lines, above = [], bytes(width * step)
    for r in range(height):
        line = bytearray(raw[r * (width * step + 1) + 1 : (r + 1) * (width * step + 1)])
        unfilter(raw[r * (width * step + 1)], line, above, step)
        lines.append(bytes(line))
        above = line
    return width, height, step, lines


def unfilter(kind, line, above, step):
    for i in range(len(line)):
        a, b = line[i - step] if i >= step else 0, above[i]
        c = above[i - step] if i >= step else 0
        near = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        line[i] = line[i] + (0, a, b, (a + b) // 2, near)[kind] & 255


def screenshot(folder, page, width, *options):
    path = folder / "shot.png"
    path.unlink(missing_ok=True)
    chromium(folder, page, f"--window-size={width},900", f"--screenshot={path}", *options)
    got, height, step, lines = pixels(path)
    assert (got, height) == (width, 900)
    return [line[i : i + 3] for line in lines[::3] for i in range(0, len(line), 3 * step)]


def brightness(colour):
    return sum(colour) / 765


def screens(folder, page):
    dark = "--blink-settings=preferredColorScheme=0"
    for width in (500, 1100):
        for options, is_dark in [((), False), ((dark,), True)]:
            seen = screenshot(folder, page, width, *options)
            background = max(set(seen), key=seen.count)
            assert (brightness(background) < 0.3) == is_dark, (width, background)
            ink = [c for c in seen if abs(brightness(c) - brightness(background)) > 0.5]
            assert len(ink) > 100, "there is text to read"


def nothing_is_cut_on_paper(folder, page):
    """Laid out as for print, as wide as A4 and letter leave it: no table has to be scrolled."""
    text = page.read_text()
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("@media print", "@media screen")
    count = "[...document.querySelectorAll('.wide')].map(e => [e.scrollWidth, e.clientWidth])"
    measured = folder / "measured.html"
    measured.write_text(text.replace(
        "</body>", f"<script>document.body.dataset.widths = JSON.stringify({count})</script></body>"))
    shown = chromium(folder, measured, "--dump-dom", "--window-size=700,900")
    widths = json.loads(html.unescape(re.search(r'data-widths="([^"]*)"', shown)[1]))
    assert len(widths) > 4 and all(content <= room for content, room in widths), widths


def paper(folder, page):
    path = folder / "page.pdf"
    chromium(folder, page, f"--print-to-pdf={path}", "--no-pdf-header-footer")
    pages = re.findall(rb"/Type\s*/Page\b", path.read_bytes())
    assert 3 <= len(pages) <= 30, len(pages)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store, page = folder / "a.db", folder / "page.html"
        chat(store, QUERIES[:6], session="anna")
        written = check_page(make_page(store, page))
        shown = check_page(chromium(folder, page, "--dump-dom"))
        assert shown == written, "the browser reads what was written"
        screens(folder, page)
        nothing_is_cut_on_paper(folder, page)
        paper(folder, page)
    print("the page is as expected")


if __name__ == "__main__":
    sys.exit(main())
