"""The report on a tiny calibrated model: every section has its table, every figure is drawn, and the mistakes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from service.evaluation import report as module
from service.evaluation.replay import Replayer
from service.evaluation.study import Pair, Study
from service.evaluation.sweep import Outcome
from service.exits.policies.budgeted import Budgeted
from service.models.store import load_model
from tests.evaluation.conftest import NUM_LAYERS, OnDisk
from tests.evaluation.traces_ import made_up_replay
from tests.exits.strategies_ import WITHOUT_TRAFFIC

FIGURES = {"exits.png", "f1_by_layers.png", "f1_by_time.png", "ensemble.png", "measures.png"}


@dataclass(frozen=True)
class Reported:
    """What the command wrote, and the study that it wrote of."""

    folder: Path
    study: Study

    @property
    def page(self) -> str:
        return (self.folder / "results.md").read_text(encoding="utf-8")

    @property
    def sections(self) -> dict[str, str]:
        """By heading."""
        _, *parts = self.page.split("\n## ")
        return {part.partition("\n")[0]: part for part in parts}


@pytest.fixture(scope="module")
def reported(calibrated: OnDisk, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder, write = tmp_path_factory.mktemp("docs") / "new", module.report
    written: list[Study] = []

    def watched(studies: Sequence[Study], target: Path) -> Path:
        written.extend(studies)
        return write(studies, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "report", watched)
        argument = f"tiny={calibrated.dev},{calibrated.test}"
        assert calibrated.run("report", argument, "--output", folder, "--device", "cpu") == 0
    (study,) = written
    return Reported(folder, study)


# the page


def test_the_page_and_its_figures_are_all_that_is_written(reported: Reported) -> None:
    assert {path.name for path in reported.folder.iterdir()} == {"results.md", *FIGURES}


def test_every_figure_is_a_png_with_something_on_it_and_on_the_page(reported: Reported) -> None:
    for name in FIGURES:
        drawn = (reported.folder / name).read_bytes()
        assert drawn.startswith(b"\x89PNG\r\n\x1a\n") and len(drawn) > 10_000
        assert f"]({name})" in reported.page


def test_every_section_has_a_table_whose_rows_are_as_wide_as_its_head(reported: Reported) -> None:
    assert len(reported.sections) >= 7
    for heading, section in reported.sections.items():
        rows = [line.count("|") for line in section.splitlines() if line.startswith("| ")]
        assert len(rows) > 2 and len(set(rows)) == 1, heading
        assert "`tiny@1`" in section
    assert "nan" not in reported.page and "inf" not in reported.page.replace("information", "")


def test_the_page_says_with_which_command_and_on_what(reported: Reported) -> None:
    assert re.search(r"python -m service report tiny=DATA/\S+/dev\.jsonl,DATA/\S+/test\.jsonl", reported.page)
    assert "cpu, eager (float32), 1 threads" in " ".join(reported.page.split())


def test_the_page_names_what_was_measured_not_what_the_model_was_calibrated_on(
    reported: Reported, tmp_path: Path
) -> None:
    on: dict[str, str | int] = {"device": "a device", "dtype": "bfloat16", "executor": "another", "threads": 7}
    module.report([replace(reported.study, measured_on=on)], tmp_path)
    page = " ".join(Reported(tmp_path, reported.study).page.split())
    assert "on a device, another (bfloat16), 7 threads" in page and "eager" not in page


def test_every_point_of_the_front_has_a_row_and_every_preset_its_name(reported: Reported) -> None:
    (section,) = (text for heading, text in reported.sections.items() if heading.startswith("Operating points"))
    rows = [line for line in section.splitlines() if re.match(r"\| (learned|budgeted|full_depth)", line)]
    assert len(rows) == len(reported.study.points) == len(reported.study.calibration.points)
    assert [preset for row in rows for preset in re.findall(r"\(\*\*(\w+)\*\*\)", row)] == [
        *("fast", "balanced", "accurate")
    ]


def test_every_measure_has_a_row(reported: Reported) -> None:
    section = reported.sections["Measures of consistency"]
    kinds = re.findall(r"^\| (\w+) \| (mean|max) \|", section, flags=re.MULTILINE)
    assert len(kinds) == len(set(kinds)) == 17


def test_every_strategy_has_its_best_policy_at_each_of_the_papers_speedups(reported: Reported) -> None:
    section = reported.sections["All strategies at the paper's speed-ups"]
    (row,) = (line for line in section.splitlines() if line.startswith("| static cut"))
    cuts = [pair.test.f1 for pair in reported.study.families["budgeted"]]
    found = [tuple(map(float, cell.split(" / ")[:2])) for cell in row.split("|")[2:-1]]
    is_within = [layers <= NUM_LAYERS / speedup for (_, layers), speedup in zip(found, (1.3, 2.3, 4.8), strict=True)]
    assert is_within == [True, True, False]  # of four layers, no cut runs a 4.8th
    assert all(f1 == pytest.approx(cuts[int(layers) - 1], abs=0.005) for f1, layers in found)


def test_two_models_stand_side_by_side_in_every_section(reported: Reported, tmp_path: Path) -> None:
    module.report([reported.study, replace(reported.study, model="other@2", given="runs/other")], tmp_path)
    both = Reported(tmp_path, reported.study)
    assert both.sections.keys() == reported.sections.keys()
    assert all("`tiny@1`" in section and "`other@2`" in section for section in both.sections.values())
    files = r"=DATA/\S+/dev\.jsonl,DATA/\S+/test\.jsonl"
    assert re.search(f"report tiny{files} runs/other{files}", both.page)


# the study behind it


def test_every_strategy_is_studied_on_dev_and_test(reported: Reported) -> None:
    study = reported.study
    assert {key.partition("/")[0] for key in study.families} == WITHOUT_TRAFFIC - {"full_depth"}
    assert (len(study.dev.texts), len(study.test.texts)) == (30, 20)
    for pairs in study.families.values():
        assert all(pair.dev.policy == pair.test.policy for pair in pairs)
        assert {len(pair.dev.replay.gold) for pair in pairs} == {30}
        assert {len(pair.test.replay.gold) for pair in pairs} == {20}


def test_the_oracle_answers_as_full_depth_does_as_early_as_can_be(reported: Reported) -> None:
    study, layers = reported.study, reported.study.oracle.replay.layers_run
    assert study.oracle.replay.micro == study.full.test.replay.micro
    full = study.test.readings[-1].span_sets
    for index, layer in enumerate(layers.tolist()):
        agrees = [reading.span_sets[index] == full[index] for reading in study.test.readings]
        assert agrees.index(True) + 1 == layer
    assert 1 < layers.mean() < NUM_LAYERS


def test_a_policy_is_chosen_on_dev_alone(reported: Reported) -> None:
    study = reported.study
    for key, pairs in study.families.items():
        chosen = study.within(key, 1.0)
        good = [pair for pair in pairs if pair.dev.f1 >= study.full.dev.f1 - 1.0]
        assert chosen in (good or pairs)
        assert not any(pair.dev.seconds < chosen.dev.seconds for pair in good)


def test_the_dev_front_of_a_family_is_paired_with_its_test_outcomes(reported: Reported) -> None:
    pairs = reported.study.front("gated_vote")
    f1, seconds = [pair.dev.f1 for pair in pairs], [pair.dev.seconds for pair in pairs]
    assert f1 == sorted(f1) and seconds == sorted(seconds)
    assert all(pair in reported.study.families["gated_vote"] for pair in pairs)


def test_the_static_cut_between_two_cuts_is_a_mixture_of_them(reported: Reported) -> None:
    cuts = [pair.test for pair in reported.study.families["budgeted"]]
    best = np.maximum.accumulate([cut.f1 for cut in cuts])
    for cut, f1 in zip(cuts, best, strict=True):
        assert reported.study.static_f1_at(cut.seconds) == pytest.approx(f1)
    middle = (cuts[0].seconds + cuts[1].seconds) / 2
    assert reported.study.static_f1_at(middle) == pytest.approx((best[0] + best[1]) / 2)


def test_a_static_cut_that_is_dearer_and_worse_is_not_taken(reported: Reported) -> None:
    cuts = [Outcome(Budgeted(1), made_up_replay([f1]), seconds) for f1, seconds in ((50, 1.0), (40, 2.0), (60, 3.0))]
    study = replace(reported.study, families={"budgeted": [Pair(cut, cut) for cut in cuts]})
    assert [study.static_f1_at(seconds) for seconds in (0.5, 1.0, 2.0, 2.5, 3.0, 9.0)] == pytest.approx(
        [50.0, 50.0, 50.0, 55.0, 60.0, 60.0]
    )


def test_an_ensemble_leaves_where_the_plain_vote_of_its_tau_does(reported: Reported) -> None:
    plain = {pair.dev.policy.to_json()["tau"]: pair for pair in reported.study.families["vee/kl/mean"][::-1]}
    assert reported.study.ensemble
    for averaged in reported.study.ensemble:
        alone = plain[averaged.dev.policy.to_json()["tau"]]
        assert alone.dev.policy.to_json()["patience"] == 1
        assert averaged.test.replay.layers_run.tolist() == alone.test.replay.layers_run.tolist()


def test_the_points_are_replayed_on_test_as_they_would_be_served(reported: Reported) -> None:
    replayer = Replayer(reported.study.test)
    assert reported.study.points
    for point, found in reported.study.points:
        assert found.policy.to_json() == point.parameters
        assert found.replay.layers_run.tolist() == replayer.replay(found.policy).layers_run.tolist()


def test_the_mean_entropy_of_every_exit_lies_between_none_and_all(reported: Reported) -> None:
    assert len(reported.study.entropy) == NUM_LAYERS
    assert all(0 < entropy < 1 for entropy in reported.study.entropy)


# mistakes


@pytest.mark.parametrize("argument", ["tiny", "tiny=", "tiny=dev.jsonl", "tiny=dev.jsonl,", "=dev.jsonl,test.jsonl"])
def test_an_argument_that_names_no_model_and_two_files_is_refused(
    calibrated: OnDisk, argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrated.run("report", argument, "--output", tmp_path / "docs") == 2
    assert f"{argument!r} is no MODEL=DEV,TEST; expected a model and its two files" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_a_model_that_is_not_calibrated_is_refused_with_what_to_do(
    uncalibrated: OnDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_model(uncalibrated.model).operating_points is None
    argument = f"tiny={uncalibrated.dev},{uncalibrated.test}"
    assert uncalibrated.run("report", argument, "--output", tmp_path / "docs") == 2
    said = capsys.readouterr().err
    assert "tiny@1 has no operating points; calibrate it on" in said and "dev.jsonl first" in said
