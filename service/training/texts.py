"""Chooses the texts that an epoch shows: how many of each corpus, and changed how. `sequences` encodes them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from service.data.readers import Example
from service.text.encoder import TextEncoder
from service.training.augment import Augmenter, Tokens, collect_names, titles_outside
from service.training.recipe import Recipe
from service.training.sequences import TrainingSequence, join_examples, training_sequences


class TrainingTexts:
    """Holds the training texts of all corpora, and makes the sequences of every epoch from them."""

    def __init__(
        self, recipe: Recipe, text_encoder: TextEncoder, corpora: Sequence[Sequence[Example]], labels: tuple[str, ...]
    ) -> None:
        """Prepare; `corpora` holds the texts of each corpus of the recipe."""
        self._recipe, self._encoder, self._labels = recipe, text_encoder, labels
        examples = [example for corpus in corpora for example in corpus]
        self._fixed: list[TrainingSequence] | None = None
        if recipe.augmentation.is_none and recipe.has_one_corpus:
            self._fixed, self.lost = training_sequences(text_encoder, examples, labels)
            if recipe.joined_words:
                joined = join_examples(examples, recipe.joined_words, recipe.seed)
                self._fixed += training_sequences(text_encoder, joined, labels, split=False)[0]
            return
        self.lost = 0
        self._corpora = [[titles_outside(Tokens.of(example)) for example in corpus] for corpus in corpora]
        self._augment = Augmenter(recipe.augmentation, collect_names(examples))

    def epoch(self, number: int) -> list[TrainingSequence]:
        """Return the sequences of an epoch; they depend on its number and the recipe's seed alone."""
        if self._fixed is not None:
            return self._fixed
        draw = random.Random(f"{self._recipe.seed} texts {number}")
        split: list[Example] = []
        whole: list[Example] = []
        for corpus, texts in zip(self._recipe.sources, self._corpora, strict=True):
            drawn = texts * int(corpus.weight) + draw.sample(texts, round(corpus.weight % 1 * len(texts)))
            draw.shuffle(drawn)
            for tokens, is_split in self._augment(drawn, draw):
                if tokens.words:
                    (split if is_split else whole).append(tokens.example())
        found, self.lost = training_sequences(self._encoder, split, self._labels)
        return found + training_sequences(self._encoder, whole, self._labels, split=False)[0]
