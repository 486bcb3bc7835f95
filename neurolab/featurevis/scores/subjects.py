"""The pictures to be scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.pictures import PictureRow
from neurolab.data.decode import to_rgb
from neurolab.errors import AtlasError
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
        return cls(atlas.site(site), int(index), read_picture(picture), kin, picture.seed)


def read_picture(picture: Picture | PictureRow) -> Image.Image:
    """The image, RGB; AtlasError where the atlas's file of it cannot be read."""
    if isinstance(picture, Picture):
        return Image.fromarray(picture.image)
    try:
        with Image.open(picture.path) as opened:
            return to_rgb(opened).copy()  # read before the file is closed
    except OSError as error:
        raise AtlasError(f"{picture.path} cannot be read ({error}); draw the picture again") from error


def by_site(subjects: Sequence[Subject]) -> Iterator[tuple[SiteArrays, list[int]]]:
    """Each site, and the places of its subjects."""
    for name in dict.fromkeys(subject.site.name for subject in subjects):
        rows = [row for row, subject in enumerate(subjects) if subject.site.name == name]
        yield subjects[rows[0]].site, rows
