from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurolab.training.recipe import Recipe, Stage


def test_a_recipe_survives_json(tmp_path: Path) -> None:
    recipe = Recipe(name="other", stages=(Stage(64, 1), Stage(96, 2)), learning_rate=1e-4)
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert Recipe.from_json(path) == recipe


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"learning_rat": 0.1}))
    with pytest.raises(TypeError, match="learning_rat"):
        Recipe.from_json(path)
