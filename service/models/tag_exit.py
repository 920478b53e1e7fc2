"""The exits of a token classifier: its own head after the last layer, read as a span table, and none before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.biaffine import Projections
from service.models.packed import Packed
from service.models.tags import TagScheme

NEVER = -20.0  # the score of a label, beside 0 of no entity, where a table says that there is no entity
_TINY = 1e-30  # stands for a probability of 0, whose logarithm would be endless
LEAST_SCORE = 0.501  # of a found entity: less, and its cell would say that none is more probable


class NoExit(nn.Module):
    """Stands where there is no exit: finds no entity anywhere."""

    def __init__(self, num_labels: int) -> None:
        """num_labels: label 0 included."""
        super().__init__()
        self._num_labels = num_labels

    def score(self, first_words: Tensor, last_words: Tensor, packed: Packed) -> tuple[Tensor, Projections]:
        """See BiaffineExit."""
        cells = sum(packed.cell_counts)
        scores = first_words.new_full((cells, self._num_labels), NEVER)
        scores[:, 0] = 0.0
        return scores, (first_words, last_words)


class TagExit(nn.Module):
    """Reads the tags of words, each at its first piece, and makes a span table of them.

    The table has either what a Transformers pipeline finds (`aggregation_strategy="first"`, or `"simple"` where every
    piece is a word): its entities, each with the mean probability of its tags, and none elsewhere; or, `soft`, the
    distribution of every cell. For that, tags are independent of each other, given the text, as they are for the
    pipeline, which takes the most probable one of each word: see `span_probabilities`.
    """

    def __init__(self, head: Mapping[str, Tensor], scheme: TagScheme, *, soft: bool = False) -> None:
        """head: `weight`, (tags, hidden), and `bias`, (tags,)."""
        super().__init__()
        self.classifier = nn.Linear(head["weight"].shape[1], len(scheme.tags))
        self.classifier.load_state_dict(dict(head))
        self.register_buffer("labels", torch.tensor([tag.label for tag in scheme.tags]), persistent=False)
        self.register_buffer("begins", torch.tensor([tag.begins for tag in scheme.tags]), persistent=False)
        self._num_labels, self._soft = len(scheme.labels) + 1, soft

    def score(self, first_words: Tensor, last_words: Tensor, packed: Packed) -> tuple[Tensor, Projections]:
        """See BiaffineExit; the scores are log-probabilities."""
        probabilities = torch.softmax(self.classifier(first_words), dim=1)  # (words, tags)
        labels, begins = self.get_buffer("labels"), self.get_buffer("begins")
        if self._soft:
            by_label = probabilities.new_zeros(len(probabilities), self._num_labels)
            begin, go_on = (
                by_label.index_add(1, labels, part)[:, 1:] for part in (probabilities * begins, probabilities * ~begins)
            )
            scores = with_none(span_probabilities(begin, go_on, packed)).log()
        else:
            best = probabilities.max(dim=1)
            scores = found_spans(best.values, labels[best.indices], begins[best.indices], self._num_labels, packed)
        return scores, (first_words, last_words)


def span_probabilities(begin: Tensor, go_on: Tensor, packed: Packed) -> Tensor:
    """Return how probable it is that the tags of words make each span an entity: (cells, labels).

    begin  (words, labels) probability of a tag that begins an entity of the label
    go_on  (words, labels) probability of the other tags of the label

    Words are independent. So an entity of label k from s to e has the probability that s begins one, or has another
    tag of k after a word that is not of k, that each of s + 1, ..., e goes on, and that e + 1 does not. For one span
    such events of different labels exclude each other, so the rest of the probability is that of no entity.
    """
    begin, go_on = begin.double(), go_on.double()
    is_first, is_last = _edges(packed)
    before = (begin + go_on).roll(1, dims=0).masked_fill(is_first[:, None], 0.0)  # the word before is of the label
    after = go_on.roll(-1, dims=0).masked_fill(is_last[:, None], 0.0)  # the word after goes on
    runs = go_on.clamp_min(_TINY).log().cumsum(dim=0)  # over all words; a span is the difference of two
    first, last = packed.words_of_cells
    starts = begin + go_on * (1 - before)
    return (starts[first] * (runs[last] - runs[first]).exp() * (1 - after)[last]).float()


def with_none(spans: Tensor) -> Tensor:
    """Put the probability of no entity before those of labels: (cells, labels) -> (cells, K), none of them 0."""
    none = 1 - spans.sum(dim=1, keepdim=True)
    return torch.cat([none, spans], dim=1).clamp_min(_TINY)


def found_spans(scores: Tensor, labels: Tensor, begins: Tensor, num_labels: int, packed: Packed) -> Tensor:
    """Return the log-probabilities of a table that has the entities of tagged words, and none elsewhere: (cells, K).

    scores  (words,) probability of each word's tag; an entity has their mean
    labels  (words,) label of each word's tag, 0 for none
    begins  (words,) bool, whether it always begins an entity
    """
    is_first, is_last = _edges(packed)
    starts = (labels > 0) & (begins | is_first | (labels != labels.roll(1)))
    ends = (labels > 0) & (is_last | starts.roll(-1) | (labels != labels.roll(-1)))
    entity = starts.cumsum(0)  # of a word of an entity: which one
    first, last = packed.words_of_cells
    cells = (starts[first] & ends[last] & (entity[first] == entity[last])).nonzero().squeeze(1)
    first, last = first[cells], last[cells]
    sums = functional.pad(scores.double().cumsum(0), (1, 0))
    means = ((sums[last + 1] - sums[first]) / (last + 1 - first)).float().clamp(LEAST_SCORE, 1 - _TINY)
    table = scores.new_full((sum(packed.cell_counts), num_labels), NEVER)
    table[:, 0] = 0.0
    table[cells, 0] = (1 - means).clamp_min(_TINY).log()
    table[cells, labels[first]] = means.log()
    return table


def _edges(packed: Packed) -> tuple[Tensor, Tensor]:
    """Return which words are the first and which the last of their sequence: (words,) bool each."""
    words = torch.arange(len(packed.first_piece), device=packed.first_piece.device)
    starts = packed.word_starts
    return torch.isin(words, starts[:-1]), torch.isin(words + 1, starts[1:])
