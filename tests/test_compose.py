"""What docker-compose.yml says, as far as it can be told without Docker."""

from __future__ import annotations

import re
from pathlib import Path

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
OF_THE_IMAGE = {"NER_MODEL_STORE", "NER_STATE_DIR"}  # folders in the image


def test_every_setting_reaches_the_container() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    passed = re.findall(r"^ {6}(NER_\w+):", composition.partition("\n  prometheus:\n")[0], re.MULTILINE)
    settings = {f"NER_{name.upper()}" for name in Settings.model_fields}
    assert len(passed) == len(set(passed))
    assert set(passed) == settings - OF_THE_IMAGE, "a setting belongs into the environment of `ner` as well"
