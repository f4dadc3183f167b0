"""Remake the pictures of the documentation, from sweeps that take a minute: ``python docs/generate/images.py``.

It makes figures of the quickstart and of the tutorial's sweep, screenshots of the quickstart's report at 1,400 pixels
in light and dark and at 375 pixels, and its printed version (report.pdf, in the working folder). They need chromium,
its driver and selenium. Pictures of findings belong to sweeps of hours; their pages name the commands.
"""

from __future__ import annotations

import base64
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
IMAGES = ROOT / "docs" / "images"
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"
GALLERY = ("phase_diagram", "sample_complexity")
SCREENS = {"report": (1400, 1000, "light"), "report_dark": (1400, 1000, "dark"), "report_phone": (375, 800, "light")}
READY = "return document.documentElement.dataset.ready === 'true'"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def main() -> int:
    """Run the sweeps that are missing, draw the figures, and take the screenshots."""
    finding(IMAGES / "finding.png")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="flatdist-images-"))
    folder.mkdir(parents=True, exist_ok=True)
    tutorial = folder / "transition.yaml"
    tutorial.write_text(block_named((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), "transition"))
    run(folder, QUICKSTART)
    for name in GALLERY:
        figure(folder, QUICKSTART, name, IMAGES / "gallery" / f"{name}.png")
    shutil.copy(IMAGES / "gallery" / "phase_diagram.png", IMAGES / "phase_diagram.png")
    run(folder, tutorial)
    figure(folder, tutorial, "phase_diagram", IMAGES / "tutorial.png")
    flatdist(folder, "watch", str(QUICKSTART), "--once", "--out", str(folder))
    screenshots(folder / "quickstart.html", folder)
    return 0


def run(folder: Path, sweep: Path) -> None:
    """Run the missing work of a sweep."""
    flatdist(folder, "sweep", str(sweep), "--executor", "inline", "--yes", "--display", "none")


def finding(path: Path) -> None:
    """What README begins with, from the committed table of docs/results/depth."""
    import pandas as pd
    from matplotlib.figure import Figure

    from flatdist.figures.effective_norm import depth_panel
    from flatdist.figures.style import themed
    from flatdist.fits.effective_norm import depth_ratios

    with themed():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        depth_panel(axes, depth_ratios(pd.read_csv(ROOT / "docs/results/depth/effective_norm.csv")), ("2", "3", "4"))
        axes.set_title("Bars: two standard errors. Ticks at the right: the limits for large matrices.", fontsize=6.5)
        axes.legend(loc="center", bbox_to_anchor=(0.5, 0.66), ncols=3, fontsize=6.5)
        figure.savefig(path, dpi=200)
    print(path)


def flatdist(folder: Path, *words: str) -> None:
    """Run one command on the store in the folder."""
    command = [sys.executable, "-m", "flatdist", *words, "--store", str(folder / "results")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - flatdist itself


def figure(folder: Path, sweep: Path, name: str, path: Path) -> None:
    """Draw one figure as a PNG."""
    from flatdist.figures import make_figure

    made = make_figure(name, str(sweep), store=str(folder / "results"), out=folder / "drawn", formats=["png"])
    path.parent.mkdir(parents=True, exist_ok=True)
    print(shutil.copy(made.paths[0], path))


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


def screenshots(page: Path, folder: Path) -> None:
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
        (folder / "report.pdf").write_bytes(base64.b64decode(printed["data"]))
        print(folder / "report.pdf")


if __name__ == "__main__":
    raise SystemExit(main())
