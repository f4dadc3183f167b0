"""Screenshots of a report for the documentation: ``python docs/generate/screenshots.py REPORT.html [docs/images]``.

At 1,400 pixels in light and dark, at 375 pixels, and what a printer gets. Needs chromium, its driver and selenium.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path

SCREENS = {"report": (1400, 1000, "light"), "report_dark": (1400, 1000, "dark"), "report_phone": (375, 800, "light")}
READY = "return document.documentElement.dataset.ready === 'true'"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def main() -> int:
    """Take the pictures and print their paths."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    page, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        for name, (width, height, scheme) in SCREENS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(page.as_uri())
            WebDriverWait(driver, 120).until(lambda driver: driver.execute_script(READY))
            path = folder / f"{name}.png"
            path.write_bytes(
                base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
            )
            print(path)
        printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
        path = folder / "report.pdf"
        path.write_bytes(base64.b64decode(printed["data"]))
        print(path)
    finally:
        driver.quit()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
