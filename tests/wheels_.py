"""Which wheels the pins of requirements.txt have for processors of ARM: read here, and asked of pip's index anew.

    python -m tests.wheels_

writes tests/wheels.json from what the index that pip is configured for offers. Do it when a pin changes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "tests" / "wheels.json"
PYTHON = "3.11"
PLATFORMS = {
    "Linux AArch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64"),
    "macOS arm64": ("macosx_14_0_arm64",),
}


def pins() -> dict[str, str]:
    """Versions by normalised name."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {normalised(name): version.strip() for name, version in pairs}


def normalised(name: str) -> str:
    """The name as file names of wheels have it."""
    return re.sub(r"[-_.]+", "_", name.strip()).lower()


def offered(platforms: tuple[str, ...]) -> list[str]:
    """File names of the wheels that pip would install there."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", PYTHON, "--target", folder, "--report", str(report)]
        command += [f"--platform={platform}" for platform in platforms]
        subprocess.run([*command, "-r", str(ROOT / "requirements.txt")], check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return sorted(wheel["download_info"]["url"].rpartition("/")[2] for wheel in installed)


def main() -> None:
    """Write the lock."""
    found = {name: offered(platforms) for name, platforms in PLATFORMS.items()}
    LOCK.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
