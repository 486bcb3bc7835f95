"""What the pages count: which units to show in which order, what their exemplars are, which units are alike.

Nothing here knows about Streamlit: every function takes an atlas and gives numbers or names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from neurolab.analysis.selectivity import selectivity
from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays

SORTS = {
    "selective": "Most selective",
    "max": "Highest maximum",
    "mixed": "Most mixed kinds",
    "number": "Unit number",
}
COUNTED = 24  # exemplars of a unit whose kinds and concepts are counted
SUBJECTS = ("concept", "class", "label", "name")  # labels that say what an image shows, best first


@dataclass(frozen=True)
class ImageTexts:
    """What is written about every image of an atlas, by image number.

    `title`: its first caption, else what it shows, else its key; `text`: lower-case captions, labels and key;
    `kind`: the number of its kind in `kinds`, or -1; `subject`: what it shows, or "" where no label says so.
    """

    title: list[str]
    text: list[str]
    kind: np.ndarray
    kinds: list[str]
    subject: list[str]


@dataclass(frozen=True)
class Selection:
    """The units of a site that a page shows, in order, and how many exemplars of each match the filter."""

    units: np.ndarray
    matches: np.ndarray | None


def counted_as(site: SiteArrays, count: int = 2) -> str:
    """What the atlas has counted of a site, for so many of them: images, or of tokens the patches."""
    one, several = ("image", "images") if site.per_image == 1 else ("patch", "patches")
    return one if count == 1 else several


def read_texts(atlas: Atlas) -> ImageTexts:
    """Read the captions and labels of all images, once."""
    titles, texts, kinds, subjects = [], [], [], []
    for row in atlas.images(np.arange(len(atlas))):
        texts.append("\n".join([row.key, *row.captions, *row.labels.values()]).lower())
        kinds.append(row.labels.get("kind", ""))
        subjects.append(next((row.labels[name] for name in SUBJECTS if row.labels.get(name)), ""))
        titles.append(row.captions[0] if row.captions else subjects[-1] or row.key)
    names = [name for name, _ in Counter(kind for kind in kinds if kind).most_common()]
    numbers = {name: i for i, name in enumerate(names)}
    codes = np.array([numbers.get(kind, -1) for kind in kinds], np.int16)
    return ImageTexts(titles, texts, codes, names, subjects)


def kind_counts(images: np.ndarray, texts: ImageTexts) -> np.ndarray:
    """How many of the first COUNTED exemplars are of each kind: images [units, k] -> [units, kinds]."""
    top = np.asarray(images[:, :COUNTED])
    if not texts.kinds:
        return np.zeros((len(top), 0), np.int64)
    kinds = np.where(top >= 0, texts.kind[np.maximum(top, 0)], -1)
    return np.stack([(kinds == i).sum(axis=1) for i in range(len(texts.kinds))], axis=1)


def mixedness(counts: np.ndarray) -> np.ndarray:
    """Entropy in bits of each row of kind counts [units, kinds]: 0 for one kind, high for an even mixture."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share = counts / total
    return -np.where(share > 0, share * np.log2(np.where(share > 0, share, 1)), 0.0).sum(axis=1)


def subjects(images: np.ndarray, texts: ImageTexts) -> list[tuple[str, int]]:
    """What a unit's first COUNTED exemplars show, most frequent first: [(subject, number of exemplars)]."""
    found = Counter(
        texts.subject[i] for i in np.asarray(images[:COUNTED]).tolist() if i >= 0 and texts.subject[i]
    )
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def select_units(
    atlas: Atlas,
    site: str,
    texts: ImageTexts,
    sort: str = "selective",
    text: str = "",
    pictured: bool = False,
) -> Selection:
    """The units of a site in order of `sort` (a key of SORTS).

    With `text`, the units whose number it is, whose people's labels hold it, or of whose first COUNTED
    exemplars any holds it in captions, labels or key; those with most such exemplars first. `pictured` keeps
    the units with a picture.
    """
    arrays = atlas.site(site)
    order = np.argsort(-_scores(arrays, texts, sort), kind="stable")
    if pictured:
        drawn = _numbers(arrays.name, (picture.unit for picture in atlas.pictures()))
        order = order[np.isin(order, sorted(drawn))]
    wanted = text.strip().lower()
    if not wanted:
        return Selection(order, None)
    matches = matching_exemplars(np.asarray(arrays.images[:, :COUNTED]), texts, wanted)
    named = _numbers(arrays.name, (said.unit for said in atlas.labels.all() if wanted in said.text.lower()))
    named |= {int(wanted)} if wanted.isdecimal() and int(wanted) < arrays.units else set()
    rank = matches + (COUNTED + 1) * np.isin(np.arange(arrays.units), sorted(named))
    order = order[rank[order] > 0]
    order = order[np.argsort(-rank[order], kind="stable")]
    return Selection(order, matches[order])


def matching_exemplars(images: np.ndarray, texts: ImageTexts, wanted: str) -> np.ndarray:
    """How many of each unit's exemplars hold the lower-case text: images [units, k] -> [units]."""
    holds = np.array([wanted in text for text in texts.text] + [False])
    return holds[images].sum(axis=1)  # image -1 (no exemplar) reads the last entry


def _scores(arrays: SiteArrays, texts: ImageTexts, sort: str) -> np.ndarray:
    """One number per unit; the page shows high ones first."""
    if sort == "number":
        return -np.arange(arrays.units, dtype=np.float64)
    if sort == "max":
        return in_sd(np.asarray(arrays.max, np.float64), np.asarray(arrays.sd))
    selective = np.nan_to_num(selectivity(arrays), nan=0.0)
    if sort == "mixed":
        # Many units are equally mixed (few kinds, few exemplars): selectivity decides among them.
        rank = np.argsort(np.argsort(selective, kind="stable"), kind="stable") / max(arrays.units, 1)
        mixed = np.round(mixedness(kind_counts(arrays.images, texts)), 3) + 1e-4 * rank
        return np.where(arrays.sd > 0, mixed, -1.0)  # the exemplars of a unit that never varies mean nothing
    return selective


def in_sd(values: float | np.ndarray, sd: float | np.ndarray) -> np.ndarray:
    """Values in standard deviations from zero, as the article counts them; 0 where a unit never varies."""
    safe = np.where(np.isfinite(sd) & (sd > 0), sd, np.inf)
    return np.asarray(np.nan_to_num(values / safe, posinf=np.inf, neginf=-np.inf))


def _numbers(site: str, names: Iterable[str]) -> set[int]:
    """The unit numbers among names like "SITE/89" that belong to the site."""
    pairs = (name.rpartition("/") for name in names)
    return {int(number) for found, _, number in pairs if found == site}
