"""Generated pages say what the code says now, and the code says enough."""

from __future__ import annotations

import pytest

from docs.generate import FOLDER, OTHER_VARIABLES, PAGES, PROJECT, UNITS
from service.settings import Settings

READERS = (
    *("Makefile", "docker-compose.yml", "tests/e2e/containers_.py"),
    *("ner_client/exchange.py", "service/api/server.py", "service/api/tracing.py"),
)


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_every_number_among_the_settings_says_its_unit() -> None:
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
    assert [name for name in numbers if name.rpartition("_")[2] not in UNITS] == ["port"]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_other_variable_is_read_by_something() -> None:
    read = "".join((PROJECT / name).read_text(encoding="utf-8") for name in READERS)
    assert [name for name in OTHER_VARIABLES if name not in read] == []
