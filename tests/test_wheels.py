"""Every pin has a wheel for ARM, on Linux and on macOS, as far as the file names of the index tell."""

from __future__ import annotations

import json

import pytest

from tests.wheels_ import LOCK, PLATFORMS, PYTHON, normalised, pins

ABI = f"cp{PYTHON.replace('.', '')}"


@pytest.mark.parametrize(("platform", "ending"), [("Linux AArch64", "_aarch64"), ("macOS arm64", "_arm64")])
def test_every_pin_has_a_wheel(platform: str, ending: str) -> None:
    found = {}
    for file in json.loads(LOCK.read_text(encoding="utf-8"))[platform]:
        name, version, *_, python, abi, tag = file.removesuffix(".whl").split("-")
        found[normalised(name)] = version.partition("+")[0]
        assert file.endswith(".whl")
        assert tag == "any" or tag.endswith((ending, "_universal2")), file
        assert abi in ("none", ABI) or (abi == "abi3" and int(python.removeprefix("cp3")) <= int(ABI[3:])), file
    assert found == pins(), "a pin changed, or has no wheel there: `python -m tests.wheels_` asks the index"


def test_the_lock_has_the_platforms_that_are_asked_for() -> None:
    assert json.loads(LOCK.read_text(encoding="utf-8")).keys() == PLATFORMS.keys()
