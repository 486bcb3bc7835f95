"""Score pictures of an atlas's units, and keep the scores with them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neurolab.atlas import Atlas
from neurolab.atlas.matching import require_model
from neurolab.atlas.pictures import PictureRow
from neurolab.errors import AtlasError
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.scores.comparing import path_similarities, responses, seed_diversities, transfers
from neurolab.featurevis.scores.heldout import HELD_OUT
from neurolab.featurevis.scores.judges import other_judge, own_judge
from neurolab.featurevis.scores.subjects import Subject
from neurolab.featurevis.transforms import AnyTransform
from neurolab.models.zoo import Model
from neurolab.progress import reporting

Scores = dict[str, float]
NOISE = "white noise"


def score(
    model: Model,
    pictures: Sequence[Picture | PictureRow],
    atlas: Atlas,
    *,
    second: Model | None = None,
    transforms: Sequence[AnyTransform] = HELD_OUT,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> list[Scores]:
    """Measure how well pictures show what excites their units; one dict of scores for each.

    model: the one that the atlas was made of. second: another network, which did not draw; see `transfer`.
    The unit's responses are means over `draws` random views by `transforms`. batch_size: images per pass.

    activation_percentile: of the response among the natural images', 0 to 100. over_natural_max: how far the
    response is above the unit's mean, by how far the strongest natural image's is. selectivity: the share of
    the site's other units for which the picture is less unusual. transfer: the share of other units whose
    exemplars look less like it to `second`; self_transfer, without it: to the model's own embedding, which a
    picture may fool. path_similarity: how like the exemplars it is at earlier sites, 1 as they are to each
    other, 0 as random images. seed_diversity: how unlike each other, by the model's own embedding, the given
    pictures of the unit are that differ in the seed only. `neurolab.featurevis.scores.formulas` has the
    formulas and papers, and says when a score is left out; the last three need embeddings or thumbnails.

    The same seed gives the same scores, and none but seed_diversity depends on what else is scored (up to the
    rounding of the network's sums, which depends on the batch). UnknownSiteError for pictures of other things
    than the atlas's units; AtlasError for another model than the atlas's, a picture's file that cannot be
    read, and a second model where the atlas has no thumbnails.
    """
    if min(draws, batch_size) < 1:
        raise ValueError(f"draws and batch_size are at least 1, not {draws} and {batch_size}")
    require_model(atlas, model)
    subjects = [Subject.of(picture, atlas) for picture in pictures]
    if not subjects:
        return []
    found: list[Scores] = [{} for _ in subjects]
    with reporting(progress, f"Scoring {len(subjects)} pictures", None, 0) as report:
        advance = report.advance
        every = responses(
            model, subjects, transforms, draws=draws, seed=seed, batch_size=batch_size, advance=advance
        )
        for scores, response in zip(found, every, strict=True):
            scores |= measured(response)
        own = own_judge(atlas, model, batch_size, advance)
        judge = own if second is None else other_judge(atlas, second, seed, batch_size, advance)
        if judge:
            name = "self_transfer" if second is None else "transfer"
            put(found, name, transfers(judge, subjects, seed))
        put(found, "path_similarity", path_similarities(atlas, model, subjects, seed, batch_size, advance))
        if own:
            put(found, "seed_diversity", seed_diversities(own, subjects))
    return found


def measured(scores: Mapping[str, float | None]) -> Scores:
    """Without those that say nothing."""
    return {name: value for name, value in scores.items() if value is not None and math.isfinite(value)}


def put(found: Sequence[Scores], name: str, values: Sequence[float | None]) -> None:
    """A value for each picture under a name, where it says something."""
    for scores, value in zip(found, values, strict=True):
        scores |= measured({name: value})


def score_atlas(
    atlas: Atlas,
    model: Model,
    *,
    second: Model | None = None,
    kinds: Sequence[str] | None = None,
    noise: bool = False,
    transforms: Sequence[AnyTransform] = HELD_OUT,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> list[PictureRow]:
    """Score an atlas's pictures and keep the scores with them; the rows as they are then.

    kinds: only pictures of these; default all. noise: behind them come rows of the kind "white noise", one
    for each unit, of the size of its first picture, uniform in [0, 255]: what a picture gets that shows
    nothing. They are not kept, and have no file. The rest is as `score` has it. Scores of other names stay. A
    picture that is drawn anew meanwhile is left as it is. AtlasError where there is no picture to score.
    """
    rows = [row for row in atlas.pictures() if kinds is None or row.kind in kinds]
    if not rows:
        wanted = f" of the kinds {', '.join(kinds)}" if kinds else ""
        raise AtlasError(f"{atlas.path} has no pictures{wanted}; draw some with `neurolab render --atlas`")
    noisy = noise_beside(rows, seed) if noise else []
    scored = score(
        model, [*rows, *noisy], atlas, second=second, transforms=transforms,
        draws=draws, seed=seed, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    by_file = {row.file: scores for row, scores in zip(rows, scored[: len(rows)], strict=True)}
    now = [row for row in atlas.pictures() if row.file in by_file]
    atlas.add_pictures([with_scores(row, by_file[row.file]) for row in now])
    of_noise = zip(noisy, scored[len(rows) :], strict=True)
    return [row for row in atlas.pictures() if row.file in by_file] + [unkept(*pair) for pair in of_noise]


def noise_beside(rows: Sequence[PictureRow], seed: int) -> list[Picture]:
    """White noise for each unit of some pictures; it is the unit's own, whatever else is asked for."""
    first: dict[str, PictureRow] = {}
    for row in rows:
        first.setdefault(row.unit, row)
    made = []
    for unit, row in first.items():
        random = np.random.default_rng([seed, zlib.crc32(unit.encode())])
        image = random.integers(0, 256, (row.height, row.width, 3), dtype=np.uint8)
        made.append(Picture(unit, image, NOISE, seed=seed))
    return made


def unkept(picture: Picture, scores: Scores) -> PictureRow:
    """The row of a picture that is not in the atlas and has no file."""
    height, width, _ = picture.image.shape
    return PictureRow(
        unit=picture.name,
        kind=picture.kind,
        facet=picture.facet,
        seed=picture.seed,
        settings=picture.settings,
        settings_hash="",
        scores=scores,
        file="",
        path=Path(),
        width=width,
        height=height,
        history=(),
    )


def with_scores(row: PictureRow, scores: Scores) -> Picture:
    """A picture of the atlas with scores beside those that it has; of equal names the new ones."""
    return Picture(
        name=row.unit,
        image=np.asarray(row.to_pil()),
        rgba=row.rgba,
        kind=row.kind,
        facet=row.facet,
        seed=row.seed,
        settings=row.settings,
        scores=row.scores | scores,
        history=np.array(row.history, np.float32),
    )
