from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from neurolab.errors import TrainingError
from neurolab.training.distil import build_tower
from neurolab.training.parts import TrainingData
from neurolab.training.recipe import PartPlan, Recipe, Stage, names
from tests.training.conftest import TINY


def test_a_recipe_survives_json(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, stages=(Stage(32, 1), Stage(64, 2)), parts={"words": PartPlan(3, 2)})
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert Recipe.load(path) == recipe


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**json.loads(TINY.to_json()), "learning_rat": 0.1}))
    with pytest.raises(TrainingError, match="learning_rat"):
        Recipe.load(path)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"stages": (Stage(32, 1),)}, "last stage"),
        ({"prepared_size": 48}, "prepared at 48"),
        ({"mixed_precision": "fp16"}, "fp16"),
        ({"loss_weights": {"raw": 1.0}}, "lacks"),
        ({"text_repeats": {"captoin": 2}}, "captoin"),
    ],
)
def test_settings_that_could_not_be_trained_to_the_end_are_refused(change: dict, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        dataclasses.replace(TINY, **change)


def test_an_unknown_recipe_names_those_there_are() -> None:
    assert names() == ["full", "reduced"]
    with pytest.raises(TrainingError, match="full, reduced"):
        Recipe.load("fulll")


@pytest.mark.parametrize("name", ["full", "reduced"])
def test_the_recipes_that_ship_keep_to_the_pockets_bounds(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name and recipe.mixed_precision == "bf16"
    CLIPVisionCfg(**recipe.vision), CLIPTextCfg(**recipe.text)
    assert all(64 <= stage.image_size <= 128 for stage in recipe.stages)
    assert recipe.stages[-1].image_size == recipe.vision["image_size"] <= recipe.prepared_size
    tower = build_tower(recipe, recipe.vision["image_size"])
    assert sum(p.numel() for p in tower.parameters()) < 12e6
    assert recipe.parts.keys() <= TrainingData(Path("anywhere")).parts().keys()
