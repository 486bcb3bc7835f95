"""The pictures to be scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.pictures import PictureRow
from neurolab.featurevis.picture import Picture


@dataclass(frozen=True)
class Subject:
    """A picture to be scored. kin: what pictures share that differ in the seed only."""

    site: SiteArrays
    index: int
    image: Image.Image
    kin: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, picture: Picture | PictureRow, atlas: Atlas) -> Subject:
        named = picture.unit if isinstance(picture, PictureRow) else picture.name
        unit = atlas.unit_name(named)
        site, _, index = unit.rpartition("/")
        settings = json.dumps(picture.settings, sort_keys=True, default=str)
        kin = (unit, picture.kind, picture.facet or "", settings)
        image = picture.to_pil() if isinstance(picture, PictureRow) else Image.fromarray(picture.image)
        return cls(atlas.site(site), int(index), image, kin, picture.seed)


def by_site(subjects: Sequence[Subject]) -> Iterator[tuple[SiteArrays, list[int]]]:
    """Each site, and the places of its subjects."""
    for name in dict.fromkeys(subject.site.name for subject in subjects):
        rows = [row for row, subject in enumerate(subjects) if subject.site.name == name]
        yield subjects[rows[0]].site, rows
