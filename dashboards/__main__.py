"""Write the dashboards: `python -m dashboards [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards import board, engine, overview

FOLDER = Path(__file__).resolve().parents[1] / "docker" / "grafana" / "dashboards"


def main(folder: Path) -> None:
    """Write one file per dashboard into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in (("overview", overview), ("engine", engine)):
        text = board.to_json(made.TITLE, made.UID, made.DESCRIPTION, made.rows())
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
