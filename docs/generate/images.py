"""Remake the documentation's pictures, from sweeps of minutes: ``python docs/generate/images.py [FOLDER [NAME ...]]``.

Figures of the gallery and the tutorial, each by the command that its page shows; screenshots of the quickstart's report
at 1,400 pixels in light and dark and at 375 pixels, and what a printer gets. They need chromium, its driver and
selenium. The folder keeps the sweeps' results, so that a second run only draws, all pictures or those that are named
(``heatmap report``); by default it is a scratch folder. Pictures of findings belong to sweeps of hours; their pages
name the commands.
"""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prose import block_named

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
SWEEPS = {"transition": "tutorial.md", "rate-and-noise": "how-do-i.md"}  # name -> the page that has its file
SCREENS = {"report": (1400, 1000, "light"), "report_dark": (1400, 1000, "dark"), "report_phone": (375, 800, "light")}
READY = "return document.documentElement.dataset.ready === 'true'"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def main() -> int:
    """Run what is missing of the sweeps, draw the figures, and take the screenshots."""
    names = sys.argv[2:]
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="flatdist-images-"))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "sweeps" / "quickstart.yaml", folder)
    for name, page in SWEEPS.items():
        (folder / f"{name}.yaml").write_text(block_named((DOCS / page).read_text(encoding="utf-8"), name))
    for name in ("quickstart", *SWEEPS):
        flatdist(folder, "sweep", f"{name}.yaml", "--executor", "inline", "--yes", "--display", "none")
    drawn = pictures((DOCS / "gallery.md").read_text(encoding="utf-8"))
    for picture, command in {**drawn, "images/tutorial.png": "phase-diagram transition.yaml"}.items():
        if not names or Path(picture).stem in names:
            figure(folder, command, DOCS / picture)
    if not names or "finding" in names:
        finding(IMAGES / "finding.png")
    if not names or "report" in names:
        flatdist(folder, "watch", "quickstart", "--once", "--out", ".")
        screenshots(folder / "quickstart.html")
    return 0


def pictures(page: str) -> dict[str, str]:
    """The gallery's own pictures, each with the command above it.

    >>> pictures("`flatdist figure ratios s.yaml --over dof`, more:\\n\\n![n50](images/gallery/ratios.png)")
    {'images/gallery/ratios.png': 'ratios s.yaml --over dof'}
    """
    found, command = {}, ""
    for part in re.finditer(r"flatdist figure ([^`\n]+)|!\[[^\]]*\]\((\S+)\)", page):
        command = part[1] or command
        if part[2] and part[2].startswith("images/gallery/"):
            found[part[2]] = command
    return found


def finding(path: Path) -> None:
    """What README begins with, from the committed table of docs/results/depth."""
    import pandas as pd
    from matplotlib.figure import Figure

    from flatdist.figures.effective_norm import depth_panel
    from flatdist.figures.style import themed
    from flatdist.fits.first_success import depth_ratios

    with themed():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        depth_panel(axes, depth_ratios(pd.read_csv(ROOT / "docs/results/depth/effective_norm.csv")), ("2", "3", "4"))
        axes.set_title("Bars: two standard errors. Ticks at the right: the limits for large matrices.", fontsize=6.5)
        axes.legend(loc="center", bbox_to_anchor=(0.5, 0.66), ncols=3, fontsize=6.5)
        figure.savefig(path, dpi=200)
    print(path)


def flatdist(folder: Path, *words: str) -> None:
    """Run one command in the folder."""
    command = [sys.executable, "-m", "flatdist", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)  # noqa: S603 - flatdist itself


def figure(folder: Path, command: str, path: Path) -> None:
    """Draw one figure as a PNG, small enough for a page."""
    drawn = folder / "drawn" / path.stem
    shutil.rmtree(drawn, ignore_errors=True)
    flatdist(folder, "figure", *shlex.split(command), "--format", "png", "--out", str(drawn.resolve()))
    (made,) = drawn.glob("*.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(shutil.copy(made, path))


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()


def screenshots(page: Path) -> None:
    """Take the pictures of the report, and print it."""
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium() as driver:
        for name, (width, height, scheme) in SCREENS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(page.resolve().as_uri())
            WebDriverWait(driver, 120).until(lambda driver: driver.execute_script(READY))
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            (IMAGES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
            print(IMAGES / f"{name}.png")
        printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
        (IMAGES / "report.pdf").write_bytes(base64.b64decode(printed["data"]))
        print(IMAGES / "report.pdf")


if __name__ == "__main__":
    raise SystemExit(main())
