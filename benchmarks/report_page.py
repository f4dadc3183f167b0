"""Size and load time of the report's page: ``python benchmarks/report_page.py [FOLDER]``.

Runs the quickstart, with its own replicates and with enough for ``--trials`` trials, in this process, writes both
pages, and opens them in Chromium where one is installed. Prints bytes by part and the median of several loads. The
folder keeps results for the next run; by default it is a scratch folder.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
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
    "table of cells": r'<table id="cells">.*?</table>',
    "script": r"<script>.*?</script>",
    "style sheet": r"<style>.*?</style>",
}
PAINT = """
const paint = performance.getEntriesByName("first-contentful-paint")[0];
const load = performance.getEntriesByType("navigation")[0];
return paint ? [paint.startTime, load.domContentLoadedEventEnd] : null;
"""


def main() -> int:
    """Make the pages and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--loads", type=int, default=9)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="flatdist-page-"))
    sweep = load_sweep(QUICKSTART)
    for replicates in (sweep.replicates, -(-options.trials // len(sweep.cells))):
        page = make_page(folder, replicates)
        text = page.read_text(encoding="utf-8")
        compressed = len(gzip.compress(text.encode()))
        print(f"{len(sweep.cells) * replicates:,} trials: {len(text.encode()):,} bytes, {compressed:,} compressed")
        for name, pattern in PARTS.items():
            print(f"  {sum(len(part.encode()) for part in re.findall(pattern, text, flags=re.DOTALL)):>9,}  {name}")
        if shutil.which("chromium") and (times := loads(page, options.loads)):
            paint, ready = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"  first contentful paint {paint:.0f} ms, DOM ready {ready:.0f} ms (median of {len(times)} loads)")
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


def make_page(folder: Path, replicates: int) -> Path:
    """Run what the folder's store lacks of the quickstart with so many replicates, and write its page."""
    sweep, store = folder / f"{replicates}" / "quickstart.yaml", f"{folder}/{replicates}/results"
    sweep.parent.mkdir(parents=True, exist_ok=True)
    text = QUICKSTART.read_text(encoding="utf-8")
    sweep.write_text(re.sub(r"^replicates: .*$", f"replicates: {replicates}", text, flags=re.MULTILINE))
    run("sweep", str(sweep), "--store", store, "--executor", "inline", "--display", "none", "--yes")
    run("watch", str(sweep), "--store", store, "--once", "--out", str(sweep.parent))
    return sweep.with_suffix(".html")


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
            driver.get(page.resolve().as_uri())
            driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            if measured := driver.execute_script(PAINT):
                times.append(tuple(measured))
    return times[1:]


if __name__ == "__main__":
    raise SystemExit(main())
