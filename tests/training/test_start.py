"""The model of a recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.models.config import ExitForm, ModelConfig
from service.training.start import model_config
from tests.models_ import tiny_config
from tests.training.toy_ import ANY_RECIPE


@pytest.mark.parametrize(
    ("form", "wanted", "reach"), [("contextual", 3, 3), ("contextual", 0, 0), ("low_rank", 3, 0), ("full", 3, 0)]
)
def test_a_recipes_reach_reaches_the_contextual_form_and_no_other(form: ExitForm, wanted: int, reach: int) -> None:
    recipe = replace(ANY_RECIPE, exit_form=form, exit_reach=wanted, window_pieces=64, overlap_pieces=16)
    config = model_config(recipe, tiny_config().encoder, ("LOC", "PER"))
    assert (config.exits.form, config.exits.reach) == (form, reach)
    assert ModelConfig.from_json(config.to_json()) == config
