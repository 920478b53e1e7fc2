"""Training with teachers: a student learns from what finished models hold, and from no model that sees other cells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import BadInput, ModelRefused
from service.models.packed import pack
from service.models.store import load_model
from service.text.encoder import TextEncoder
from service.training.teachers import Teachers
from tests.models.classifiers_ import save_classifier
from tests.models_ import tiny_config
from tests.tokenizers_ import WORDS, bert_tokenizer
from tests.training.toy_ import Run, Toy

CPU = torch.device("cpu")


def test_teachers_give_the_mean_of_the_distributions_of_their_last_exits(
    toy: Toy, finished: Run, tmp_path: Path
) -> None:
    other = toy.train(tmp_path / "run", replace(toy.recipe, seed=2, epochs=1))
    stored = load_model(finished.output / "model")
    (text,) = stored.text_encoder.encode_batch(["Ada Lovelace lives in Rome."])
    packed = pack(text.sequences, CPU)
    tables = [load_model(folder).model.eval()(packed)[-1].exp() for folder in (stored.folder, other)]
    taught = Teachers.read([stored.folder, other], stored.config, CPU)(packed)
    torch.testing.assert_close(taught, (tables[0] + tables[1]) / 2)
    assert not torch.allclose(tables[0], tables[1])


def test_a_student_without_gold_labels_to_speak_of_learns_from_its_teacher(
    toy: Toy, finished: Run, tmp_path: Path
) -> None:
    teacher = finished.output / "model"
    recipe = replace(toy.recipe, epochs=2)
    alone, taught = Run(tmp_path / "alone"), Run(tmp_path / "taught")
    toy.train(alone.output, recipe)
    toy.train(taught.output, replace(recipe, distillation=5.0), teachers=[teacher])
    assert sum(taught.best_dev_f1) > sum(alone.best_dev_f1)
    assert json.loads((taught.output / "run.json").read_text())["teachers"] == [str(teacher)]


def test_a_teacher_of_other_windows_is_refused_by_name(toy: Toy, finished: Run, tmp_path: Path) -> None:
    recipe = replace(toy.recipe, window_pieces=24, overlap_pieces=6)
    with pytest.raises(BadInput, match=r"teacher .*model has text .*window_pieces=32.* the model to train has"):
        toy.train(tmp_path / "run", recipe, teachers=[finished.output / "model"])


def test_teachers_and_words_that_halt_do_not_go_together(toy: Toy, finished: Run, tmp_path: Path) -> None:
    model = finished.output / "model"
    with pytest.raises(BadInput, match="takes none"):
        toy.train(tmp_path / "run", replace(toy.recipe, halting=True), start=model, teachers=[model])


def test_a_token_classifier_teaches_the_distributions_of_its_tags_under_the_students_labels(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "theirs", words=WORDS)
    student = replace(tiny_config(nested=False, labels=("PER", "LOC")), word_shapes=True)
    student = replace(student, encoder=replace(student.encoder, vocab_size=bert_tokenizer(WORDS).get_vocab_size()))
    encoder = TextEncoder(bert_tokenizer(WORDS), student.text, student.labels, nested=False)
    packed = pack(encoder.encode("Anna met Bob in New York.").sequences, CPU)
    taught = Teachers.read([folder], student, CPU)(packed)
    assert taught.shape == (sum(packed.cell_counts), 3)
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(len(taught)))
    turned = Teachers.read([folder], replace(student, labels=("LOC", "PER")), CPU)(packed)
    torch.testing.assert_close(taught[:, [0, 2, 1]], turned)
    fewer = Teachers.read([folder], replace(student, labels=("LOC",)), CPU)(packed)
    torch.testing.assert_close(fewer[:, 1], taught[:, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("LOC", "GPE")}, r"no tags of \['GPE'\]"),
        ({"nested": True}, "finds flat entities"),
        ({"encoder": replace(tiny_config().encoder, vocab_size=7)}, "the model to train has 7; expected one tokenizer"),
    ],
    ids=str,
)
def test_a_token_classifier_of_other_labels_cells_or_pieces_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "theirs")
    student = tiny_config(nested=False, labels=("LOC", "PER"))
    size = bert_tokenizer().get_vocab_size()
    student = replace(student, **{"encoder": replace(student.encoder, vocab_size=size), **change})
    with pytest.raises((BadInput, ModelRefused), match=message):
        Teachers.read([folder], student, CPU)


def test_a_model_of_ours_keeps_all_its_layers(toy: Toy, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exits need every layer"):
        toy.train(tmp_path / "run", replace(toy.recipe, layers=1), start=finished.output / "model")
    config = load_model(toy.train(tmp_path / "shallow", replace(toy.recipe, layers=1, epochs=1))).config
    assert config.num_layers == config.num_exits == 1
