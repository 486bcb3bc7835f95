"""The pocket's recipes as data: what is trained, on what, for how long."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from neurolab.errors import TrainingError

LOSS_TERMS = ("raw", "centred", "whitened", "affinity")
TEXT_KINDS = ("caption", "mention", "name", "drawing", "word", "photo")


@dataclass(frozen=True)
class Stage:
    """Some epochs of the image tower at one image size.

    learning_rate: the peak of a cycle that begins here; None goes on in the cycle of the stage before.
    repeats: how often an epoch shows the pictures of a part, by its name (default: once). loss_weights:
    replace the recipe's, term by term.
    """

    image_size: int
    epochs: int
    learning_rate: float | None = None
    repeats: dict[str, int] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PartPlan:
    """How much of a part of the data is used: `images` of it (None: all), each in `views` views."""

    images: int | None = None
    views: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out of `neurolab train pocket`, with the data.

    `vision` and `text` are open_clip's configurations of the towers, `parts` says what is learned from (the
    names are those of neurolab.training.parts). The image tower is trained at growing image sizes
    (progressive resizing): an epoch at 64 px costs less than half of one at 96 px and teaches most of what
    the later ones refine. `stretch` is how far its embeddings are moved from their mean at the end
    (neurolab.training.stretch), `text_whitening` how far, from 0 to 1, the texts' are whitened
    (neurolab.training.whitening). Learning rates are Muon's (neurolab.training.optimizer).
    `mixed_precision` is accelerate's: "no" or "bf16".
    Raises TrainingError for settings that could not be trained to the end.
    """

    name: str
    vision: dict[str, Any]
    text: dict[str, Any]
    stages: tuple[Stage, ...]
    parts: dict[str, PartPlan]
    embed_dim: int = 512
    prepared_size: int = 96
    mixed_precision: str = "bf16"
    batch_size: int = 128
    learning_rate: float = 0.02
    weight_decay: float = 0.05
    least_crop: float = 0.7
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {"raw": 1.0, "centred": 1.0, "whitened": 1.0, "affinity": 0.1}
    )
    whitening_floor: float = 0.5
    affinity_temperature: float = 0.05
    stretch: float = 1.0
    text_epochs: int = 5
    text_batch_size: int = 256
    text_learning_rate: float = 0.02
    text_weight_decay: float = 0.05
    text_temperature: float = 0.02
    text_cosine_weight: float = 1.0
    text_whitening: float = 0.0
    text_repeats: dict[str, int] = field(default_factory=lambda: {"caption": 2, "name": 8, "drawing": 2})
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].image_size != self.vision["image_size"]:
            raise TrainingError(
                "the last stage's image_size must be that of vision, as the model is used at it"
            )
        if max(stage.image_size for stage in self.stages) > self.prepared_size:
            raise TrainingError(f"pictures are prepared at {self.prepared_size} px, smaller than a stage's")
        if self.stretch <= 0:
            raise TrainingError(f"stretch is a factor above 0, not {self.stretch}")
        if not 0 <= self.text_whitening <= 1:
            raise TrainingError(f"text_whitening is a share from 0 to 1, not {self.text_whitening}")
        if self.mixed_precision not in ("no", "bf16"):
            raise TrainingError(f'mixed_precision is "no" or "bf16", not {self.mixed_precision!r}')
        named: list[tuple[str, Mapping[str, float], Iterable[str]]] = [
            ("loss_weights", self.loss_weights, LOSS_TERMS),
            ("text_repeats", self.text_repeats, TEXT_KINDS),
        ]
        for stage in self.stages:
            named.append(("a stage's loss_weights", stage.loss_weights, LOSS_TERMS))
            named.append(("a stage's repeats", stage.repeats, self.parts))
        for setting, given, known in named:
            if unknown := given.keys() - set(known):
                raise TrainingError(f"{setting} has no {', '.join(unknown)}: there are {', '.join(known)}")
        if missing := set(LOSS_TERMS) - self.loss_weights.keys():
            raise TrainingError(f"loss_weights lacks {', '.join(missing)}: 0 leaves a term out")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def image_side(self) -> str:
        """The settings that decide the image tower's epochs in all stages, as JSON.

        Another text tower, or stretch, goes on from the same ones. What differs from stage to stage is kept
        with each epoch (neurolab.training.distil.Epoch).
        """
        settings = dataclasses.asdict(self)
        elsewhere = ("text", "stages", "learning_rate", "stretch")
        kept = {key: value for key, value in settings.items() if not key.startswith(elsewhere)}
        kept["vision"] = {key: value for key, value in self.vision.items() if key != "image_size"}
        return json.dumps(kept, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """A recipe from its JSON; unknown keys raise TypeError, so a misspelt setting is never ignored."""
        settings = json.loads(text)
        settings["stages"] = tuple(Stage(**stage) for stage in settings["stages"])
        settings["parts"] = {name: PartPlan(**plan) for name, plan in settings["parts"].items()}
        return cls(**settings)

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """A recipe that ships, by its name ("reduced", "full"), or one in a JSON file.

        Raises TrainingError where neither is there, or the file is no recipe.
        """
        shipped = files("neurolab.training").joinpath("recipes", f"{name}.json")
        path = shipped if shipped.is_file() else Path(name)
        if not path.is_file():
            raise TrainingError(
                f"there is no recipe {str(name)!r}: name one of {', '.join(names())}, or a file"
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{name} is not a recipe: {type(error).__name__}: {error}") from error

    def model_config(self) -> dict[str, Any]:
        """The open_clip model configuration of the student."""
        return {"embed_dim": self.embed_dim, "vision_cfg": dict(self.vision), "text_cfg": dict(self.text)}


def names() -> list[str]:
    """The recipes that ship with neurolab."""
    folder = files("neurolab.training").joinpath("recipes")
    return sorted(path.name.removesuffix(".json") for path in folder.iterdir() if path.name.endswith(".json"))
