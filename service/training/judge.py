"""Judges a model in training by the figures that `evaluate` reports; training uses evaluation only here."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from service.assets import hashed_layers
from service.data.readers import Example
from service.evaluation.evaluate import Evaluation, evaluate
from service.evaluation.run_policy import evaluate_policy
from service.executors.eager import EagerExecutor
from service.exits.policies.tokee import Tokee
from service.models.multi_exit import MultiExitModel
from service.text.encoder import TextEncoder
from service.training.recipe import Recipe
from service.training.sequences import join_examples

HALTING_SETTINGS = ((0.05, 3), (0.3, 3))  # (tau, window) under which a model with halting words is judged


@dataclass(frozen=True, slots=True)
class Verdict:
    """Holds the dev F1 of every exit after an epoch, as a fraction, and the score that chooses the best epoch."""

    f1: list[float]
    score: float


class Judge:
    """Scores models on annotated texts."""

    def __init__(
        self, recipe: Recipe, text_encoder: TextEncoder, dev: Mapping[str, Sequence[Example]], device: torch.device
    ) -> None:
        """Prepare; `dev` holds the dev texts by corpus, of which the recipe may want only so many."""
        self._text_encoder, self._device = text_encoder, device
        most = recipe.dev_texts or max(map(len, dev.values()))
        draw = random.Random(recipe.seed)
        self._dev = [texts if len(texts) <= most else draw.sample(texts, most) for texts in dev.values()]
        self._joined = join_examples(self._dev[0], recipe.joined_words, recipe.seed) if recipe.joined_words else None

    def judge_epoch(self, model: MultiExitModel) -> Verdict:
        """Score every exit on the dev set; on several, the F1 of an exit is its mean over them.

        All exits may be used, so the F1 of each counts the same. A model trained with halting words is judged with
        halted words, a model with one exit by that exit.
        """
        of_corpora = [self.evaluate(model, texts).f1 for texts in self._dev]
        f1 = [math.fsum(of_exit) / len(of_exit) for of_exit in zip(*of_corpora, strict=True)]
        if model.config.halting:
            return Verdict(f1, self._halting_f1(model))
        return Verdict(f1, math.fsum(f1) if model.config.num_exits > 1 else f1[-1])

    def evaluate(self, model: MultiExitModel, examples: Sequence[Example]) -> Evaluation:
        """Score every exit on `examples`; in a model with a hash, words halt as the hash says."""
        word_layers = None if model.config.hash is None else hashed_layers(model).of
        executor = EagerExecutor(model, self._device)
        return evaluate(executor, self._text_encoder, examples, word_layers=word_layers)

    def _halting_f1(self, model: MultiExitModel) -> float:
        """Return the mean dev F1 with halted words, over HALTING_SETTINGS, on texts as they are and on joined ones."""
        executor = EagerExecutor(model, self._device)
        sets = [(self._dev[0], True), *([] if self._joined is None else [(self._joined, False)])]
        found = [
            evaluate_policy(executor, self._text_encoder, examples, Tokee(tau, window), split=split).micro.f1
            for examples, split in sets
            for tau, window in HALTING_SETTINGS
        ]
        return math.fsum(found) / len(found)
