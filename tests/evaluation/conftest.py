"""A model that the command line calibrated, for the tests of commands and of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.__main__ import main
from service.models import device
from tests.evaluation.traces_ import tiny_examples, tiny_stored, write_jsonl
from tests.models_ import save_tiny_model, tiny_config

NUM_LAYERS = 4


@dataclass(frozen=True)
class OnDisk:
    """A store with the model `tiny`, and annotated files."""

    store: Path
    dev: Path
    test: Path

    @property
    def model(self) -> Path:
        return self.store / "tiny" / "1"

    def run(self, *arguments: str | Path) -> int:
        """Run a command on this store, on the CPU; -> its exit code."""
        return main([*map(str, arguments), "--store", str(self.store)])


@pytest.fixture(scope="session")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    folder = tmp_path_factory.mktemp("evaluation")
    config = tiny_config(num_layers=NUM_LAYERS)
    stored = tiny_stored(config)
    dev, test = (
        write_jsonl(folder / f"{name}.jsonl", tiny_examples(stored, count, seed=count, sentence_words=(4, 6, 9)))
        for name, count in (("dev", 30), ("test", 20))
    )
    save_tiny_model(folder / "store" / "tiny" / "1", config)
    return OnDisk(folder / "store", dev, test)


@pytest.fixture(scope="session")
def calibrated(uncalibrated: OnDisk, tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """By the command, on dev."""
    store = tmp_path_factory.mktemp("calibrated")
    save_tiny_model(store / "tiny" / "1", tiny_config(num_layers=NUM_LAYERS))
    copy = OnDisk(store, uncalibrated.dev, uncalibrated.test)
    assert copy.run("calibrate", "tiny", copy.dev, "--device", "cpu", "--threads", "1") == 0
    return copy


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Commands take all cores; on models as tiny as these, more than one thread only costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "available_cores", lambda: 1)
        yield
