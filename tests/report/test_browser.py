"""The page in a real browser: no complaint on its console, tables that sort and download."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from edgeres.report import html
from report.example import cell, report, solar, timed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
TRY = """
(async () => {
  const said = {};
  const table = document.querySelector("table.data");
  const button = table.tHead.rows[0].cells[2].querySelector("button");
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[2].textContent);
  button.click();
  said.up = [column(), button.parentElement.getAttribute("aria-sort")];
  button.click();
  said.down = [column(), button.parentElement.getAttribute("aria-sort")];
  said.sorted = document.querySelectorAll("th[aria-sort]").length;
  let file;
  URL.createObjectURL = (blob) => ((file = blob), "#");
  document.querySelector(".download").click();
  said.csv = await file.text();
  said.buttons = [...document.querySelectorAll("table.data")].map(
    (one) => [one.querySelectorAll("th button").length, one.tHead.rows[0].cells.length],
  );
  said.downloads = document.querySelectorAll(".download").length;
  document.body.textContent = JSON.stringify(said);
})();
"""


def dom(tmp_path, page):
    """The page as it is after its scripts ran, and what the console said."""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        *(f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=2000", f"file://{tmp_path}/report.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_its_policy_lets_its_own_script_run_and_the_console_is_silent(tmp_path):
    shown, console = dom(tmp_path, html.render(solar()))
    assert console == []
    assert shown.count('class="download"') == shown.count("<caption>") > 8


def test_tables_sort_and_download(tmp_path):
    """With the policy taken out, so that a second script may click."""
    names = ['quoted "name", with\nbreak', "=1+1", "plain"]
    cells = [cell(name, "fp32", latency=timed([p50] * 5)) for name, p50 in zip(names, (9.0, 10.0, 2.0), strict=True)]
    made = report([*cells, cell("timeless", "fp32", accuracy=solar().cells[0].accuracy)])
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html.render(made))
    shown, console = dom(tmp_path, page.replace("</body>", f"<script>{TRY}</script></body>"))
    assert console == []
    said = json.loads(re.search(r"<body>(.*)</body>", shown, re.DOTALL)[1].replace("&lt;", "<").replace("&amp;", "&"))
    assert said["up"] == [["2.00", "9.00", "10.0", "not available"], "ascending"]
    assert said["down"] == [["10.0", "9.00", "2.00", "not available"], "descending"]
    assert said["sorted"] == 1
    assert all(buttons == heads for buttons, heads in said["buttons"])
    assert said["downloads"] == len(said["buttons"])
    head, *lines = csv.reader(io.StringIO(said["csv"], newline=""))
    assert head[:3] == ["target", "precision", "p50 ms"]
    assert [line[0] for line in lines] == ["'=1+1", names[0], "plain", "timeless"]
    p50s = {found.target: found.latency.p50 for found in cells}
    assert [float(line[2]) for line in lines[1:3]] == pytest.approx([p50s[names[0]], p50s["plain"]], rel=1e-9)
    assert lines[3][2] == ""
