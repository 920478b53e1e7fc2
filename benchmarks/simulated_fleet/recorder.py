"""Draws texts from annotated sentences, and records when they leave under every policy that the simulation knows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines import policies_of
from benchmarks.overload import numbered
from benchmarks.simulated_fleet.recording import Level, Recording
from service.assets import assets_of
from service.data.readers import read_examples
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS, OperatingPoint
from service.exits.policy import ExitPolicy
from service.models.store import StoredModel
from service.stepping.advance import run
from service.stepping.passage import Passage
from service.text.types import SequenceInput

SENTENCES = (1, 1, 1, 1, 2, 2, 4, 8)  # of a text, drawn from these
MOST_F1_LOSS = 1.0  # of the autopilot's levels
AT_ONCE = 64  # sequences


def draw_texts(file: Path, count: int, seed: int = 0) -> list[str]:
    """Return texts of one to eight consecutive sentences of a file, no two of them equal."""
    sentences = [example.text for example in read_examples(file)]
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        length = draw.choice(SENTENCES)
        first = draw.randrange(max(1, len(sentences) - length))
        texts.append(numbered(" ".join(sentences[first : first + length]), number))
    return texts


def record(stored: StoredModel, texts: Sequence[str], executor: Executor) -> Recording:
    """Run texts under full depth, the presets and the autopilot's levels, and keep when their sequences leave."""
    calibration, policies = policies_of(stored)
    encoded = stored.text_encoder.encode_batch(texts)
    wanted = {"full_depth": (policies["full_depth"], 1.0, 0.0)}
    catalog = calibration.catalog(assets_of(stored.model))
    points: dict[str, OperatingPoint] = {preset: calibration.choose("preset", preset) for preset in PRESETS}
    points |= {f"level {level}": point for level, point in enumerate(calibration.ladder(MOST_F1_LOSS))}
    for name, point in points.items():
        wanted[name] = (catalog.policy(point.parameters), point.speedup_latency, point.f1_loss)
    inputs = [sequence for text in encoded for sequence in text.sequences]
    levels = {
        name: Level(policy.to_json(), speed, loss, _exit_layers(policy, inputs, executor))
        for name, (policy, speed, loss) in wanted.items()
    }
    lengths = tuple(tuple(sequence.num_pieces for sequence in text.sequences) for text in encoded)
    return Recording(executor.config.num_layers, tuple(map(len, texts)), lengths, levels)


def _exit_layers(policy: ExitPolicy, inputs: Sequence[SequenceInput], executor: Executor) -> tuple[int, ...]:
    passages = [Passage(sequence, policy) for sequence in inputs]
    for first in range(0, len(passages), AT_ONCE):
        for passage in run(executor, passages[first : first + AT_ONCE]):
            passage.release()
    return tuple(passage.layer for passage in passages)
