"""The README's pictures of the console: `python -m tests.e2e.console_pictures` writes docs/console-*.png anew.

The fonts are those of the machine; with Debian's fonts-inter the pictures look as on most readers' screens.
"""

from __future__ import annotations

import io
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
from PIL import Image
from playwright.sync_api import Browser

from tests.api.servers_ import PROJECT, ServerProcess
from tests.e2e.browser_ import PHONE, Visit, chromium

TRAFFIC = (
    "Siemens is opening an office in New York.",
    "Maria Rossi works in Geneva for the United Nations.",
    "It rained.",
    "The shares of Deutsche Bank and Credit Suisse First Boston fell when London opened, traders in Zurich said.",
)
TRAFFIC_S = 60.0  # before a picture is taken
PICTURES = {  # name: model, window, pixels for one of CSS, colours
    "desktop": ("general-minilm-research", (1280, 1060), 1.5, "light"),
    "phone": ("litbank-minilm", PHONE, 2.0, "dark"),
}


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Requests in the background, so that the live figures have something to show."""
    stop, choose = threading.Event(), random.Random(1)

    def send() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not stop.wait(choose.expovariate(12)):
                client.post("/ner", json={"text": choose.choice(TRAFFIC)}).raise_for_status()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def take(browser: Browser, name: str, folder: Path) -> None:
    """Serve the picture's model, send it traffic, and write what the console shows, in 256 colours."""
    model, size, scale, scheme = PICTURES[name]
    process = ServerProcess(folder, NER_MODEL=model, NER_STATE_DIR=str(folder / "state"))
    try:
        url = process.wait_ready()
        with traffic(url):
            visit = Visit(browser, f"{url}/", size, device_scale_factor=scale, color_scheme=scheme).open()
            visit.page.wait_for_timeout(1_000 * TRAFFIC_S)
            with visit.page.expect_response("**/ner"):
                visit.page.click("#run")  # the first answer was slower than any later one
            visit.page.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(PROJECT / f"docs/console-{name}.png")
    finally:
        process.kill()


def main() -> None:
    """Take all pictures."""
    with chromium() as browser:
        for name in PICTURES:
            with tempfile.TemporaryDirectory() as folder:
                take(browser, name, Path(folder))


if __name__ == "__main__":
    main()
