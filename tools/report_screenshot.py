"""Make docs/images/report.png: the report of a sample session in Chromium, coached by the rules of the simulator."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.async_api import async_playwright  # noqa: E402

from parley.process import leave  # noqa: E402
from parley.report.page import report_page  # noqa: E402
from tests.report.analyses import LONG, OTHERS, RECORDING, SHORT, of_sample  # noqa: E402

IMAGE = ROOT / "docs" / "images" / "report.png"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MOST_BYTES = 300_000


async def main() -> None:
    """Open the report as a file, and take the picture of its upper part."""
    analysis, session = of_sample(SHORT, earlier=(*OTHERS, LONG))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.html"
        file.write_text(report_page(analysis, session, RECORDING.read_bytes()), encoding="utf-8")
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await browser.new_page(viewport={"width": 1280, "height": 1180})
            await page.goto(file.as_uri())
            await page.screenshot(path=IMAGE, animations="disabled")
            await browser.close()
    size = IMAGE.stat().st_size
    print(f"{IMAGE.name}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"{IMAGE.name} is larger than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
    leave(0)
