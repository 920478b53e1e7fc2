"""A task so small that training it takes seconds: sentences made of templates. No test lives here."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from service.training.loop import train
from service.training.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
PEOPLE = ("Anna", "Ben", "Carla", "Dario", "Eva Lind", "Finn Moor")
CITIES = ("Rome", "Oslo", "Paris", "Port Hill", "Lima")
TEMPLATES = (
    "P lives in C .",
    "P met P in C .",
    "C is a city .",
    "P and P left C at noon .",
    "the trains to C and C were late .",
    "nobody works here .",
)
EPOCHS = 6
ANY_RECIPE = Recipe("toy", "1", True, "a BERT", "made up", "a.conll", "b.conll", "c.conll")  # for parts of a training
RECIPE = f"""
name = "toy"
version = "1"
train = "train.conll"
dev = "dev.conll"
test = "test.conll"
nested = false
encoder_name = "a random BERT"
data_notice = "Made up for a test."
window_pieces = 32
overlap_pieces = 8
exit_rank = 8
width_buckets = 4
epochs = {EPOCHS}
batch_pieces = 96
encoder_rate = 1e-3
exit_rate = 1e-2
average_decay = 0.9
case_noise = 0.05
piece_masking = 0.02
"""


def write_conll(path: Path, count: int) -> None:
    """`count` sentences out of TEMPLATES, P a person and C a city, tagged BIO."""
    draw = random.Random(path.name)
    lines = []
    for _ in range(count):
        for word in draw.choice(TEMPLATES).split():
            names, label = {"P": (PEOPLE, "PER"), "C": (CITIES, "LOC")}.get(word, ((word,), ""))
            name = draw.choice(names).split()
            lines += [
                f"{part}\t{'BI'[index > 0]}-{label}" if label else f"{part}\tO" for index, part in enumerate(name)
            ]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Toy:
    """A task on disk, and how to train it here or in a process of its own."""

    folder: Path

    @property
    def recipe(self) -> Recipe:
        return read_recipe(self.folder / "toy.toml")

    def train(
        self, output: Path, recipe: Recipe | None = None, *, start: Path | None = None, teachers: Sequence[Path] = ()
    ) -> Path:
        return train(
            recipe or self.recipe,
            encoder=start or self.folder / "encoder",
            data=self.folder,
            output=output,
            device=torch.device("cpu"),
            command="a test",
            teachers=teachers,
        )

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        """`python -m service train` on one core, hence with one thread."""
        command = [sys.executable, "-m", "service", "train", str(self.folder / "toy.toml"), f"--output={output}"]
        command += [f"--encoder={self.folder / 'encoder'}", f"--data={self.folder}", "--device=cpu"]
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})  # the child inherits it
        try:
            with (output.parent / "log").open("ab") as log:
                return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        finally:
            os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    output: Path

    @property
    def history(self) -> list[dict[str, list[float]]]:
        path = self.output / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def best_dev_f1(self) -> list[float]:
        return max((row["dev_f1_per_exit"] for row in self.history), key=sum)

    @property
    def weights(self) -> bytes:
        return (self.output / "model" / "model.safetensors").read_bytes()
