"""What the engine's metrics count of sequences that leave, and of those that do not."""

from __future__ import annotations

from service.engine.engine import Engine
from service.metrics import Metrics
from tests.engine.scripted_ import ScriptedStepper, answer, make_engine, scripted_request

LAYERS = ("ner_layers_executed_total", "ner_layers_saved_total", "ner_sequences_total")


def counted(metrics: Metrics, *names: str) -> list[float | None]:
    """The values of series that have no label but the model's."""
    return [metrics.registry.get_sample_value(name, {"model_name": "m"}) for name in names]


def engine_and_metrics(runner: ScriptedStepper) -> tuple[Engine, Metrics]:
    metrics = Metrics("m", num_layers=4, entity_labels=(), exit_reasons=("vote", "last_layer"), build={})
    return make_engine(runner, observer=metrics.engine), metrics


def test_layers_are_counted_as_run_and_as_saved_when_a_sequence_leaves() -> None:
    engine, metrics = engine_and_metrics(ScriptedStepper())
    answer(engine, scripted_request(2, 4, 3))
    assert counted(metrics, *LAYERS) == [2 + 4 + 3, 2 + 0 + 1, 3]


def test_what_ran_for_a_request_whose_caller_left_is_counted_by_its_steps_alone() -> None:
    gone, stays = scripted_request(4, 4), scripted_request(3)
    runner = ScriptedStepper(on_step=lambda layer, _: setattr(gone, "is_cancelled", layer >= 2))
    engine, metrics = engine_and_metrics(runner)
    answer(engine, gone, stays)
    assert counted(metrics, *LAYERS) == [3, 1, 1]
    assert counted(metrics, "ner_step_batch_sequences_sum") == [2 * 2 + 3]


def test_the_exit_reasons_that_were_handed_in_are_there_before_any_sequence_left() -> None:
    _, metrics = engine_and_metrics(ScriptedStepper())
    found = [one for family in metrics.registry.collect() for one in family.samples]
    assert {one.labels["reason"] for one in found if one.name == "ner_exit_reason_total"} == {"vote", "last_layer"}
