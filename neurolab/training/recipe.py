"""The pocket's recipe as data: what is trained, on what, for how long."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stage:
    """Some epochs of the image tower at one image size; the stages share one learning-rate cycle."""

    image_size: int
    epochs: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out of `neurolab train pocket`, with the data.

    The image tower is trained at growing image sizes (progressive resizing): early epochs at 64 px cost
    less than half of those at 96 px and teach most of what the later ones refine.
    """

    name: str = "first"
    embed_dim: int = 512
    vision: dict[str, Any] = field(
        default_factory=lambda: {"layers": [2, 2, 2, 2], "width": 32, "image_size": 96, "head_width": 64}
    )
    text: dict[str, Any] = field(
        default_factory=lambda: {
            "context_length": 32,
            "vocab_size": 16384,
            "width": 256,
            "heads": 4,
            "layers": 2,
        }
    )
    stages: tuple[Stage, ...] = (Stage(64, 8), Stage(96, 1))
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    affinity_weight: float = 0.1
    affinity_temperature: float = 0.05
    text_epochs: int = 5
    text_batch_size: int = 256
    text_learning_rate: float = 1e-3
    text_temperature: float = 0.02
    prepared_size: int = 96
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, path: str | Path) -> Recipe:
        """Read a recipe; unknown keys raise TypeError, so a misspelt setting is never ignored."""
        settings = json.loads(Path(path).read_text())
        settings["stages"] = tuple(Stage(**stage) for stage in settings.get("stages", []))
        return cls(**settings)

    def model_config(self) -> dict[str, Any]:
        """The open_clip model configuration of the student."""
        return {"embed_dim": self.embed_dim, "vision_cfg": dict(self.vision), "text_cfg": dict(self.text)}
