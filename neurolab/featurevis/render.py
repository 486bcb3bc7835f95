"""Draw what excites units: gradient ascent on pictures (activation maximization)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

from neurolab.featurevis.ascent import Ascent, Recipe
from neurolab.featurevis.batch import batches_of
from neurolab.featurevis.facets import Facet, find_facet
from neurolab.featurevis.methods import Method, find_method
from neurolab.featurevis.objectives import Objective, as_objective
from neurolab.featurevis.parametrizations.base import Maker
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.progress import progress_bar
from neurolab.featurevis.transforms import AnyTransform
from neurolab.memory import freed_memory_kept
from neurolab.models.zoo import Model

Number = TypeVar("Number", int, float)


def render(
    model: Model,
    units: Sequence[str | Objective] | str | Objective,
    *,
    method: str | Method | Maker = "fourier",
    size: int | tuple[int, int] | None = None,
    steps: int = 256,
    seed: int | Sequence[int] = 0,
    transforms: str | Sequence[AnyTransform] | None = None,
    border: float | str | None = None,
    views: int | None = None,
    lr: float | None = None,
    alpha: bool = False,
    facet: str | Facet | None = None,
    strength: float | Sequence[float] = 1.0,
    rectified: bool = True,
    precision: str = "float32",
    record: bool | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> list[Picture]:
    """Draw a picture for each unit, all units of a batch in one run.

    units: "SITE/89", or objectives (`neurolab.featurevis.objectives`). method: "fourier", "maco", "pyramid",
    "cppn", "shared", "vit" or "pixels" (`neurolab.featurevis.methods`), a Method, or a callable (seeds, size)
    -> Parametrization. It decides the rest where nothing else is asked for:

    size: of the pictures, one side or (height, width); default, the model's input; of larger ones the network
    sees windows. seed: one for all or one per unit; a picture depends on its own objective, seed and
    these settings, not on the others. (A network rounds otherwise in a batch of another size. In hundreds of
    steps that grows: the picture is then another drawing of the same, as from another start.) transforms:
    "standard", "lucid", "crops", "none" or a list; border: the grey level around the picture, or "reflect".
    views: of each picture at each step, each with its own draw of the transforms; the objective is their
    mean. lr: the optimizer's. alpha: draw with transparency; what does not help is left out.

    facet: the theme to draw the units in ("text", "photo", ...; `neurolab.featurevis.facets`), strength: how
    strongly, one for all or one per unit (the article's pictures differ in it: np.linspace(0.1, 5, 9)),
    rectified: by what raises the objective only, as the article's code has it and its formula has not.
    precision: "bfloat16" to let the network compute in it (on GPUs). record: whether a step is recorded once
    and repeated without Python and autograd, as a CUDA graph or with a CPU's fused operations
    (`neurolab.featurevis.recording`): by default in runs that are long enough for it to pay; the results are
    the same up to rounding. Steps that are not all alike (noise, transparency, functions of Lucent's) are
    taken operation by operation anyway.
    Units whose objectives belong together (`neurolab.featurevis.together`) are drawn in one batch, whatever
    batch_size.

    Where a unit has no gradient at first, ReLUs let one through to it for some steps (lucid's rescue, each
    picture's its own). Warns of units whose gradient stays zero. Ctrl-C ends the drawing and gives the
    pictures as they are then.
    Raises UnknownSiteError for units that the model does not have.
    """
    chosen = [units] if isinstance(units, str | Objective) else list(units)
    objectives = [as_objective(unit) for unit in chosen]
    if facet is not None:
        theme, strengths = find_facet(facet, model), _one_each("strength", strength, len(chosen))
        objectives = [
            theme(unit, by, rectified=rectified) for unit, by in zip(objectives, strengths, strict=True)
        ]
    objectives = [objective.bind(model) for objective in objectives]
    seeds = _one_each("seed", seed, len(objectives))
    way = find_method(method).changed(transforms, border, views, lr, alpha)
    recipe = Recipe.of(way, model.image_size, size, steps, precision, record)
    pictures: dict[int, Picture] = {}
    batches = batches_of(objectives, len(objectives) if way.is_shared else batch_size)
    kept = freed_memory_kept() if model.device.type == "cpu" else nullcontext()
    with progress_bar(steps * len(batches), progress) as report, torch.enable_grad(), kept:
        for batch in batches:
            ascent, interrupted = None, False
            try:
                ascent = Ascent(model, [objectives[i] for i in batch], [seeds[i] for i in batch], recipe)
                ascent.run(report)
            except KeyboardInterrupt:
                interrupted = True
            pictures |= zip(batch, ascent.pictures() if ascent else [], strict=False)
            if interrupted:
                begun = f"{len(pictures)} of {len(objectives)} pictures were begun and are kept"
                warnings.warn(f"interrupted: {begun}", stacklevel=2)
                break
    return [pictures[i] for i in sorted(pictures)]


def _one_each(what: str, given: Number | Sequence[Number], units: int) -> list[Number]:
    each = list(given) if isinstance(given, Iterable) else [given] * units
    if len(each) != units:
        raise ValueError(f"{len(each)} {what}s for {units} units: give one {what} for all, or one for each")
    return each
