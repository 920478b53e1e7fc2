"""Links between the pages lead somewhere, and to every page leads one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages_ import PAGES, PROJECT, README, Page

CHANGELOG = Page(PROJECT / "CHANGELOG.md")


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Page) -> None:
    for link in (link for link in page.links if not link.startswith("http")):
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.is_file(), f"{page.name} links to {link}"
        assert not anchor or anchor in Page(target).anchors, f"{page.name} links to {link}"


def test_the_readme_leads_to_every_page_of_docs() -> None:
    linked = {(PROJECT / link).resolve() for link in README.links if not link.startswith("http")}
    assert {path for path in (PROJECT / "docs").glob("*.md") if path not in linked} == set()


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(page.path.parent / Path(link)).resolve() for page in PAGES for link in page.links}
    assert {path.name for path in (PROJECT / "docs").rglob("*.png") if path not in shown} == set()


def test_the_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= 150
