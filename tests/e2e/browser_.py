"""A headless Chromium at the console: for its tests, and for the README's pictures. No test lives here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

PATIENCE_MS = 30_000
CHROMIUM = "/usr/bin/chromium"  # Debian's; see install.sh
PHONE, DESKTOP = (390, 844), (1280, 900)
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
_REFUSAL = "Failed to load resource: the server responded with a status of 4"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a fresh profile."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(_ARGUMENTS))
        yield browser
        browser.close()


class Visit:
    """The console in a window of its own, and everything that went wrong or went elsewhere there.

    complaints  console errors and uncaught exceptions, but for the line with which Chromium reports every 4xx
    hosts       that anything was asked of
    """

    def __init__(self, browser: Browser, url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_REFUSAL):
            self.complaints.append(message.text)

    def open(self) -> Visit:
        """Load the page and wait for the answer to the text that it begins with."""
        self.page.goto(self.url)
        self.page.locator(".rung").first.wait_for()
        return self

    def ask(self, text: str) -> None:
        """Put a text in, and wait until it is answered."""
        with self.page.expect_response("**/ner") as answer:
            self.page.fill("#text", text)
        answer.value.finished()
        expect(self.page.locator("#reading")).not_to_have_text("")

    def preview(self, **parameters: str) -> None:
        """Set parameters by their labels' ids, as a reader does, and wait for the preview."""
        for name, value in parameters.items():
            field = self.page.locator(f"#{name}")
            with self.page.expect_response("**/ner"):
                if field.evaluate("node => node.tagName") == "SELECT":
                    field.select_option(value)
                else:
                    field.fill(value)
                    field.press("Tab")

    def forgive_lost_connections(self) -> None:
        """Chromium reports every connection that failed; forget those, and nothing else."""
        self.complaints = [text for text in self.complaints if text != "Failed to load resource: net::ERR_FAILED"]

    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def close(self) -> None:
        """Close the window."""
        self.context.close()
