"""A token classifier becomes a calibrated model with exits, from the command line; started again, it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.data.readers import read_examples
from service.models.store import load_model
from service.training.recipe import Recipe, find_recipe, read_recipe
from tests.distillation.teachers_ import toy_texts
from tests.models.classifiers_ import save_classifier
from tests.models_ import save_bert_checkpoint

FASTER = {  # for a toy
    "exit_rank": 8,
    "width_buckets": 4,
    "batch_pieces": 96,
    "encoder_rate": 1e-3,
    "exit_rate": 1e-2,
    "average_decay": 0.9,
}


def run(checkpoint: Path, texts: Path, output: Path, *options: str | Path, epochs: int = 6) -> int:
    arguments = ["distil", checkpoint, "--texts", texts, "--output", output, "--executor", "eager", "--device", "cpu"]
    fields = [part for name, value in FASTER.items() for part in ("--set", f"{name}={value}")]
    fields += ["--set", f"epochs={epochs}"]
    return main([str(part) for part in [*arguments, "--threads", "1", *fields, *options]])


@dataclass(frozen=True)
class Distilled:
    """What a run has made, and of what."""

    teacher: Path
    texts: Path
    gold: Path
    output: Path

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.output / "report.json").read_text())
        return found

    def again(self, *options: str | Path) -> int:
        return run(self.teacher, self.texts, self.output, "--data", self.gold, "--curve", "100", *options)


@pytest.fixture(scope="module")
def distilled(teacher: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    folder = tmp_path_factory.mktemp("distilled")
    lines = [json.dumps({"text": text}) for text in [*texts, texts[0], " "]]  # one twice, and a blank one
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    gold = folder / "gold"
    gold.mkdir()
    for name in ("train", "dev", "test"):
        toy_texts(gold, 40, name)
    found = Distilled(teacher, folder / "texts.jsonl", gold, folder / "runs" / "toy")
    assert found.again() == 0
    return found


def test_the_student_agrees_with_its_teacher_and_is_calibrated(distilled: Distilled) -> None:
    report = distilled.report
    assert report["teacher"]["exits"][-1] > 90
    assert report["gold"]["exits"][-1] > report["gold"]["teacher"] - 5
    assert report["teacher"]["presets"].keys() == {"accurate", "balanced", "fast"}
    stored = load_model(distilled.output / "model")
    assert (stored.reference, stored.config.labels, stored.config.num_layers) == ("toy@1", ("LOC", "PER"), 2)
    assert stored.operating_points is not None
    assert "--curve" not in stored.card and "python -m service distil toy-ner --texts TEXTS" in stored.card


def test_the_report_has_times_and_the_curve_and_a_page(distilled: Distilled) -> None:
    report = distilled.report
    assert report["milliseconds"].keys() == {"teacher", "full depth", "accurate", "balanced", "fast"}
    assert all(time > 0 for time in report["milliseconds"].values())
    assert report["curve"].keys() == {"100", str(report["train_texts"])}
    assert report["curve"][str(report["train_texts"])] == report["teacher"]["exits"]
    page = (distilled.output / "report.md").read_text(encoding="utf-8")
    assert f"| the teacher | {report['teacher']['exits'][0]:.2f} |" in page
    assert f"Against gold the teacher itself has {report['gold']['teacher']:.2f}." in page


def test_held_out_texts_are_in_no_training_file_and_repetitions_count_once(distilled: Distilled) -> None:
    data = distilled.output / "data"
    found = {name: [e.text for e in read_examples(data / f"{name}.jsonl")] for name in ("train", "dev", "test")}
    gold = [e.text for name in ("train", "dev", "test") for e in read_examples(distilled.gold / f"{name}.conll")]
    assert not set(found["test"]) & {*found["train"], *found["dev"]}
    labelled = [example.text for example in read_examples(distilled.output / "labelled.jsonl")]
    assert len(set(labelled)) == len(labelled) and not set(gold) & set(labelled)


def test_started_again_it_labels_and_trains_nothing_anew(distilled: Distilled) -> None:
    names = ("labelled.jsonl", "history.jsonl", "model/model.safetensors", "data/train.jsonl")
    before = [(distilled.output / name).read_bytes() for name in names]
    assert distilled.again() == 0
    assert [(distilled.output / name).read_bytes() for name in names] == before


def test_a_student_may_have_half_of_the_layers_and_a_table_of_pieces(distilled: Distilled, tmp_path: Path) -> None:
    deep = save_classifier(tmp_path / "deep", num_hidden_layers=4)
    options = ("--layers", "2", "--words", "pieces", "--aggregation-strategy", "simple")
    assert run(deep, distilled.texts, tmp_path / "run", *options, epochs=1) == 0
    config = load_model(tmp_path / "run" / "model").config
    assert (config.num_layers, config.text.table_unit) == (2, "pieces")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert run(*arguments) == 2
    return capsys.readouterr().err


def test_what_cannot_be_distilled_is_refused_before_anything_is_labelled(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    encoder = save_bert_checkpoint(tmp_path / "encoder")
    assert "no token classifier" in refusal(capsys, encoder, distilled.texts, output)
    few = tmp_path / "few.txt"
    few.write_text("Anna lives in Rome .\n", encoding="utf-8")
    assert "1 different texts" in refusal(capsys, distilled.teacher, few, output)
    few.with_suffix(".jsonl").write_text('{"txt": 1}\n', encoding="utf-8")
    assert 'few.jsonl:1: no string as "text"' in refusal(capsys, distilled.teacher, few.with_suffix(".jsonl"), output)
    assert "nested cannot be set" in refusal(capsys, distilled.teacher, distilled.texts, output, "--set", "nested=true")
    assert "3 layers are wanted of a checkpoint that has 2" in refusal(
        capsys, distilled.teacher, distilled.texts, output, "--layers", "3"
    )
    assert not output.exists()


def test_the_recipe_learns_from_the_teachers_probabilities() -> None:
    recipe = read_recipe(find_recipe(Path("distilled")))
    assert isinstance(recipe, Recipe) and recipe.distillation > 0
