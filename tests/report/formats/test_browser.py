"""The page in a real browser: it renders, sorts, complains of nothing and fits a phone."""

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from autoprec.profile import bundled, read
from autoprec.report.report import render

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium, and this test runs"
)

# The page runs in a frame, which can be as narrow as a phone; a window cannot.
_WATCH = """<script>
window.said = [];
addEventListener("error", (event) => said.push(event.message));
addEventListener("securitypolicyviolation", (event) => said.push(event.violatedDirective));
console.error = console.warn = (...words) => said.push(words.join(" "));
</script>"""
_HARNESS = """<!doctype html><body style="margin:0"><iframe id="frame"></iframe><script>
const frame = document.getElementById("frame");
frame.style = "border:0;height:900px;width:WIDTHpx";
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const found = { said: view.said };
  for (const it of page.querySelectorAll("details")) it.open = true;
  const width = page.documentElement.clientWidth;
  const clipped = (it) => it.closest(".scroll") && it.closest(".scroll") !== it;
  found.overflow = page.documentElement.scrollWidth - width;
  found.beyond = [...page.body.querySelectorAll("*")]
    .filter((it) => it.getBoundingClientRect().right > width + 1 && !clipped(it))
    .map((it) => it.tagName + " " + it.textContent.slice(0, 40));
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
    || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
  found.overlaps = [...page.querySelectorAll("svg")].flatMap((svg) => {
    const texts = [...svg.querySelectorAll("text")];
    const boxes = texts.map((it) => it.getBoundingClientRect());
    return texts.flatMap((it, i) => texts.slice(0, i)
      .filter((other, j) => !apart(boxes[i], boxes[j]))
      .map((other) => it.textContent + " | " + other.textContent));
  });
  found.pictures = [...page.querySelectorAll("svg")].map((it) => it.getBoundingClientRect().width);
  const table = page.querySelector("table");
  const button = [...table.querySelectorAll("th button")].find((it) => it.textContent === "p50 ms");
  const column = button.parentElement.cellIndex;
  const cells = () => [...table.tBodies[0].rows].map((it) => it.cells[column].textContent);
  button.click();
  found.up = cells();
  button.click();
  found.down = cells();
  found.sorted = button.parentElement.getAttribute("aria-sort");
  found.resources = view.performance.getEntriesByType("resource").length;
  found.colour = view.getComputedStyle(page.body).backgroundColor;
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
};
frame.srcdoc = PAGE;
</script>"""


@cache
def page() -> str:
    """A real profile's page."""
    return render([(file.name, read(file)) for file in bundled()[:1]], "html")


def seen(folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """What Chromium finds on the page in a frame of a width."""
    watched = page().replace("<head>", f"<head>{_WATCH}")
    quoted = json.dumps(watched).replace("</", "<\\/")
    harness = _HARNESS.replace("WIDTH", str(width)).replace("PAGE", quoted)
    file = folder / "harness.html"
    file.write_text(harness, encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={folder / 'browser'}", "--window-size=1400,900",
            "--virtual-time-budget=20000", "--dump-dom", *flags, file.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    match = re.search("FOUND(.*)END", done.stdout, re.DOTALL)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_it_renders_sorts_and_fits(width: int, tmp_path: Path) -> None:
    found = seen(tmp_path, width)
    assert found["said"] == []
    assert found["resources"] == 0
    assert (found["overflow"], found["beyond"]) == (0, [])
    assert found["overlaps"] == []
    assert len(found["pictures"]) == page().count("<svg") > 0
    assert min(found["pictures"]) > 300
    times = [float(cell) for cell in found["up"]]
    assert times == sorted(times)
    assert found["down"] == found["up"][::-1]
    assert found["sorted"] == "descending"


def test_it_is_dark_where_that_is_wanted(tmp_path: Path) -> None:
    light = seen(tmp_path, 800, "--blink-settings=preferredColorScheme=1")
    dark = seen(tmp_path, 800, "--blink-settings=preferredColorScheme=0")
    assert (light["colour"], dark["colour"]) == ("rgb(255, 255, 255)", "rgb(20, 24, 27)")
