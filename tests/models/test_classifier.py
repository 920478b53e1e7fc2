"""A Transformers token classifier, read as it is, finds what its own pipeline finds; what cannot be is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from service.assets import assets_of
from service.errors import ModelRefused
from service.evaluation.predict import entities_at_every_exit
from service.exits.catalog import PolicyCatalog
from service.models.backbones import FAMILIES
from service.models.classifier import TokenClassifier
from service.models.packed import Packed, pack
from service.models.store import load_model
from service.models.tag_exit import LEAST_SCORE, TagExit, found_spans, span_probabilities, with_none
from service.models.tags import TagScheme
from service.spans.decode import decode
from service.spans.table import cell_index
from service.spans.types import Entity
from tests.executors.cuda_ import on_stand_in
from tests.models.classifiers_ import BIO, SCHEMES, TEXTS, save_classifier, texts_of
from tests.models_ import eager, random_sequences, save_tiny_model

Found = list[tuple[int, int, str, float]]


def of_pipeline(folder: Path, text: str) -> Found:
    """What the checkpoint's own pipeline finds, with blanks at the ends of entities cut off."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, TokenClassificationPipeline

    classifier = TokenClassifier.read(folder)
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.config.id2label = dict(enumerate(classifier.scheme.names))
    strategy = "first" if classifier.knows_words else "simple"
    found: list[dict[str, Any]] = TokenClassificationPipeline(model=model, tokenizer=tokenizer)(
        text, aggregation_strategy=strategy
    )
    entities = []
    for entity in found:
        start, end = entity["start"], entity["end"]
        while text[start : start + 1].isspace():
            start += 1
        entities.append((start, end, entity["entity_group"], float(entity["score"])))
    return entities


def of_ours(folder: Path, text: str) -> Found:
    stored = load_model(folder)
    texts = stored.text_encoder.encode_batch([text], split=False)
    exits = entities_at_every_exit(eager(stored.model), stored.text_encoder, texts)
    assert not any(of_exit[0] for of_exit in exits[:-1])  # there is no exit before the last layer
    return [(entity.start, entity.end, entity.label, entity.score) for entity in exits[-1][0]]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_served_as_it_is_finds_what_its_own_pipeline_finds(
    family: str, scheme: str, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "theirs", family, SCHEMES[scheme])
    found = [(of_ours(folder, text), of_pipeline(folder, text)) for text in texts_of(family)]
    for ours, theirs in found:
        assert [entity[:3] for entity in ours] == [entity[:3] for entity in theirs]
        scores = [max(entity[3], LEAST_SCORE) for entity in theirs]
        assert [entity[3] for entity in ours] == pytest.approx(scores, abs=1e-4)
    assert sum(len(theirs) for _, theirs in found) >= 3  # a comparison of nothing would prove nothing


def brute_force(begin: torch.Tensor, go_on: torch.Tensor) -> torch.Tensor:
    """Sum the probabilities of all taggings of one sequence by the spans that they make: (cells, labels)."""
    words, labels = begin.shape
    none = 1 - begin.sum(1) - go_on.sum(1)
    table = torch.zeros(words * (words + 1) // 2, labels, dtype=torch.float64)
    kinds = [(0, False), *((label, begins) for label in range(1, labels + 1) for begins in (True, False))]
    for tags in product(kinds, repeat=words):
        weight = 1.0
        for word, (label, begins) in enumerate(tags):
            weight *= float(none[word] if not label else (begin if begins else go_on)[word, label - 1])
        start = 0
        for word, (label, _) in enumerate(tags):
            goes_on = word + 1 < words and tags[word + 1] == (label, False)
            if label and not goes_on:
                table[cell_index(words, start, word), label - 1] += weight
            if not label or not goes_on:
                start = word + 1
    return table


def test_the_distribution_of_a_cell_is_the_sum_over_all_ways_to_tag_the_words() -> None:
    tags = torch.rand(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tags = tags / tags.sum(dim=1, keepdim=True)
    packed = pack(random_sequences([4, 3]), torch.device("cpu"))
    found = span_probabilities(tags[:, 1:3], tags[:, 3:], packed)
    expected = torch.cat([brute_force(tags[rows, 1:3], tags[rows, 3:]) for rows in (slice(0, 4), slice(4, 7))])
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(with_none(found).sum(dim=1), torch.ones(16))


@pytest.mark.parametrize(
    ("labels", "begins", "spans"),
    [
        ([1, 1, 0, 2, 2], [1, 0, 0, 0, 0], [(0, 2, 1), (3, 5, 2)]),
        ([1, 1, 1], [1, 1, 0], [(0, 1, 1), (1, 3, 1)]),
        ([1, 2, 2], [0, 0, 1], [(0, 1, 1), (1, 2, 2), (2, 3, 2)]),
        ([0, 0, 0], [0, 0, 0], []),
    ],
    ids=str,
)
def test_tagged_words_give_their_entities_and_no_others(
    labels: list[int], begins: list[int], spans: list[tuple[int, int, int]]
) -> None:
    packed = pack(random_sequences([len(labels), len(labels)]), torch.device("cpu"))  # twice: nothing runs across
    scores = torch.linspace(0.6, 0.9, 2 * len(labels))
    table = found_spans(scores, torch.tensor(labels * 2), torch.tensor(begins * 2).bool(), 3, packed)
    for sequence, own in enumerate(torch.log_softmax(table, dim=1).split(packed.cell_counts)):
        best = own.max(dim=1)
        cells = [
            (first, last, best.indices[cell], best.values[cell])
            for first in range(len(labels))
            for last in range(first, len(labels))
            if best.indices[cell := cell_index(len(labels), first, last)]
        ]
        found = decode(torch.tensor(cells).numpy().reshape(-1, 4), nested=False)
        assert [span[:3] for span in found] == spans
        of_words = scores[sequence * len(labels) :]
        means = [float(of_words[start:end].mean()) for start, end, _ in spans]
        assert [span.score for span in found] == pytest.approx(means, abs=1e-5)


def soft_and_hard(packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    states = torch.randn(len(packed.first_piece), 8, generator=torch.Generator().manual_seed(1))
    head = {"weight": 9 * torch.randn(5, 8, generator=torch.Generator().manual_seed(2)), "bias": torch.zeros(5)}
    scheme = TagScheme.read(BIO)
    exits = (TagExit(head, scheme, soft=soft) for soft in (True, False))
    soft, hard = (torch.log_softmax(exit_.score(states, states, packed)[0], dim=1).exp() for exit_ in exits)
    return soft, hard


def test_where_tags_are_sure_the_distribution_says_what_the_pipeline_finds() -> None:
    soft, hard = soft_and_hard(pack(random_sequences([6, 4, 9]), torch.device("cpu")))
    is_sure = soft.max(dim=1).values > 0.9
    assert torch.equal(soft.argmax(dim=1)[is_sure], hard.argmax(dim=1)[is_sure])
    assert (hard.argmax(dim=1)[is_sure] > 0).sum() > 3


def test_the_executor_for_gpus_finds_the_same(tmp_path: Path) -> None:
    stored = load_model(save_classifier(tmp_path / "theirs", "electra"))
    texts = stored.text_encoder.encode_batch(TEXTS)
    executors = (eager(stored.model), on_stand_in(stored.model, torch.float32)[0])
    ours, on_gpu = (entities_at_every_exit(executor, stored.text_encoder, texts)[-1] for executor in executors)
    assert [[entity_key(e) for e in found] for found in ours] == [[entity_key(e) for e in found] for found in on_gpu]
    assert sum(map(len, ours)) > 3


def entity_key(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label


def test_only_full_depth_can_be_asked_of_a_token_classifier(tmp_path: Path) -> None:
    stored = load_model(save_classifier(tmp_path / "theirs"))
    catalog = PolicyCatalog(assets_of(stored.model))
    assert catalog.strategies == ["full_depth"]
    assert (stored.reference, stored.config.labels) == ("theirs@checkpoint", ("LOC", "PER"))
    assert "python -m service distil" in stored.card


def test_layers_are_left_out_evenly_and_the_last_one_stays(tmp_path: Path) -> None:
    checkpoint = TokenClassifier.read(save_classifier(tmp_path / "theirs", num_hidden_layers=6)).checkpoint
    half = checkpoint.of_layers(3)
    assert (half.config.num_layers, half.tags) == (3, ())
    for ours, theirs in ((0, 1), (1, 3), (2, 5)):
        for part in ("up.weight", "attention.key_value.bias"):
            one, other = half.weights[f"layers.{ours}.{part}"], checkpoint.weights[f"layers.{theirs}.{part}"]
            assert torch.equal(one, other)
    assert not any(name.startswith("layers.3.") for name in half.weights)
    assert checkpoint.of_layers(0) is checkpoint
    with pytest.raises(ModelRefused, match="7 layers are wanted of a checkpoint that has 6"):
        checkpoint.of_layers(7)


def edit(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, r"theirs holds an encoder, but no token classifier"),
        ({"architectures": None}, "no token classifier"),
        ({"id2label": {"0": "O", "1": "B-PER"}}, r"classifier of shapes .* expected .*\(2, 32\)"),
        ({"id2label": {str(index): f"LABEL_{index}" for index in range(5)}}, r"theirs: the tags 'LABEL_0'"),
        ({"vocab_size": 10}, "its tokenizer has .* pieces, and its encoder 10"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"max_position_embeddings": 9}, "do not fit its config"),
        ({"model_type": "gpt2"}, "'gpt2' model; known families"),
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_served_is_refused_by_name(
    fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "theirs")
    edit(folder, **fields)
    with pytest.raises(ModelRefused, match=message):
        load_model(folder)


def test_a_tokenizer_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "theirs")
    (folder / "tokenizer.json").write_text('{"model": 7}', encoding="utf-8")
    with pytest.raises(ModelRefused, match="theirs has a tokenizer that cannot be read"):
        load_model(folder)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_classifier(tmp_path / "theirs")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match="not finite in bias"):
        load_model(folder)


def test_a_model_of_this_service_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "ours")
    edit(folder, model_type="bert")
    with pytest.raises(ModelRefused, match="unknown fields"):
        load_model(folder)
