"""Size and load time of the report's page: ``python benchmarks/report_page.py [--trials 2000]``.

Runs the quickstart with as many replicates as give at least so many trials, in this process and into a scratch store,
writes the page, and opens it in Chromium where one is installed. Prints bytes by part and the median of several loads.
"""

from __future__ import annotations

import argparse
import gzip
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from flatdist.sweeps import load_sweep

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"
PARTS = {
    "figures (SVG)": r"<svg.*?</svg>",
    "data of the script (training curves)": r'<script type="application/json".*?</script>',
    "style sheet": r"<style>.*?</style>",
    "script": r"<script>.*?</script>",
    "table of cells": r'<table id="cells">.*?</table>',
}
PAINT = """
const paint = performance.getEntriesByName("first-contentful-paint")[0];
const load = performance.getEntriesByType("navigation")[0];
return paint ? [paint.startTime, load.domContentLoadedEventEnd] : null;
"""


def main() -> int:
    """Make the page and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--loads", type=int, default=9)
    options = parser.parse_args()
    cells = len(load_sweep(QUICKSTART).cells)
    replicates = -(-options.trials // cells)
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "quickstart.yaml"
        text = QUICKSTART.read_text(encoding="utf-8")
        sweep.write_text(re.sub(r"^replicates: .*$", f"replicates: {replicates}", text, flags=re.MULTILINE))
        store = f"{folder}/results"
        run("sweep", str(sweep), "--store", store, "--executor", "inline", "--display", "none", "--yes")
        run("watch", str(sweep), "--store", store, "--once", "--out", folder)
        page = Path(folder) / "quickstart.html"
        text = page.read_text(encoding="utf-8")
        total = len(text.encode())
        print(f"{cells * replicates:,} trials: {total:,} bytes, {len(gzip.compress(text.encode())):,} compressed")
        for name, pattern in PARTS.items():
            print(f"  {sum(len(part.encode()) for part in re.findall(pattern, text, flags=re.DOTALL)):>9,}  {name}")
        times = loads(page, options.loads)
    if times:
        paint, ready = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"first contentful paint {paint:.0f} ms, DOM ready {ready:.0f} ms (median of {len(times)} loads)")
    return 0


def run(*words: str) -> None:
    """Run one flatdist command."""
    subprocess.run([sys.executable, "-m", "flatdist", *words], check=True, stdout=subprocess.DEVNULL)


def loads(page: Path, count: int) -> list[tuple[float, float]]:
    """Milliseconds to the first contentful paint and to DOM ready, of several loads after a first one."""
    sys.path.insert(0, str(ROOT / "docs" / "generate"))
    from images import chromium

    times = []
    with chromium() as driver:
        for _ in range(count + 1):
            driver.get("about:blank")
            driver.get(page.as_uri())
            driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            if measured := driver.execute_script(PAINT):
                times.append(tuple(measured))
    return times[1:]


if __name__ == "__main__":
    raise SystemExit(main())
