"""The demo set: drawings, written words, photographs and typographic pairs, made from installed packages.

The drawings are OpenMoji's (CC BY-SA 4.0), the fonts those of matplotlib, the photographs those that come
with scikit-image, scikit-learn and matplotlib. Nothing is downloaded and nothing is written: a record carries
a small picklable value that draws its picture when it is decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache

from neurolab.data.chance import shuffled
from neurolab.data.drawings import style_emoji, style_label, style_word
from neurolab.data.emoji import Emoji, emoji_drawings, emoji_font_path
from neurolab.data.photos import photos
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.text import fonts
from neurolab.data.vocabulary import themes
from neurolab.errors import SourceError

# Raise this whenever the same records would look different: it is part of the content hash.
RECIPE_VERSION = 1
SECTIONS = ("drawings", "words", "photos", "typographic")
TYPOGRAPHIC_PAIRS = 320

_PHOTO_RENDERINGS = 6
_ATTACKED_RENDERINGS = 2
_LONGEST_LABEL = 11
_ATTACKED_GROUPS = ("animals-nature", "food-drink", "objects", "travel-places", "activities")
# Names of keys on a device or of signs in a chart: nobody writes them on a poster.
_NOT_WRITTEN = re.compile(r"\b(button|arrow|arrows|symbol|keycap)\b")


def slug(text: str) -> str:
    """A name as part of a key: lower case letters and digits of any script, joined by single hyphens."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")


def is_plain(concept: str) -> bool:
    """Whether a concept is written as one or two words of the letters a to z."""
    return re.fullmatch(r"[a-z]{2,}( [a-z]+)?", concept) is not None and not _NOT_WRITTEN.search(concept)


@lru_cache(maxsize=1)
def _drawn() -> dict[str, str]:
    """Concept -> group, of all drawings."""
    return {emoji.concept: emoji.group for emoji in reversed(emoji_drawings())}


@lru_cache(maxsize=1)
def _written() -> dict[str, str]:
    """Word -> group, of all words that are written: the plain concepts of drawings, then common words."""
    words = {e.concept: e.group for e in emoji_drawings() if is_plain(e.concept)}
    for photo in photos():
        words.setdefault(photo.concept, "photos")
    for word, theme in themes().items():
        words.setdefault(word, theme)
    return words


@lru_cache(maxsize=1)
def _attacks() -> tuple[tuple[Emoji, str], ...]:
    """The drawings that get a wrong word pasted over, each with the word: another drawing's concept."""
    candidates: dict[str, Emoji] = {}
    for emoji in emoji_drawings():
        fits = " " not in emoji.concept and is_plain(emoji.concept) and len(emoji.concept) <= _LONGEST_LABEL
        if fits and emoji.group in _ATTACKED_GROUPS:
            candidates.setdefault(emoji.concept, emoji)
    chosen = shuffled(list(candidates.values()), "attacked")[:TYPOGRAPHIC_PAIRS]
    chosen.sort(key=lambda emoji: emoji.codepoints)
    words = shuffled([(emoji.concept, emoji.group) for emoji in chosen], "wrong words")
    attacks = []
    for emoji in chosen:
        # The next word of another group, so that "cat" is never written on a lion.
        place = next(i for i, (_, group) in enumerate(words) if group != emoji.group or i == len(words) - 1)
        attacks.append((emoji, words.pop(place)[0]))
    return tuple(attacks)


def _triad(concept: str) -> dict[str, str]:
    return {"triad": concept} if concept in _drawn() and concept in _written() else {}


def _drawing_records() -> Iterator[Record]:
    for emoji in emoji_drawings():
        labels = {"kind": "drawing", "concept": emoji.concept, "group": emoji.group, **_triad(emoji.concept)}
        yield Record(f"drawing/{slug(emoji.name)}", style_emoji(emoji), (emoji.name,), labels)


def _word_records() -> Iterator[Record]:
    photographed = {photo.concept for photo in photos()}
    attacked = {emoji.concept for emoji, _ in _attacks()}
    for word, group in _written().items():
        count = 1
        if word in attacked:
            count = _ATTACKED_RENDERINGS
        if word in photographed:
            count = _PHOTO_RENDERINGS
        for number in range(count):
            drawing = style_word(word, number)
            labels = {
                "kind": "word",
                "concept": word,
                "group": group,
                "font": str(drawing.font),
                **_triad(word),
            }
            yield Record(f"word/{slug(word)}/{number:02d}", drawing, (f'the word "{word}"',), labels)


def _photo_records() -> Iterator[Record]:
    for photo in photos():
        labels = {"kind": "photo", "concept": photo.concept, **_triad(photo.concept)}
        yield Record(f"photo/{photo.name}", photo.cut, (photo.caption,), labels)


def _typographic_records() -> Iterator[Record]:
    for emoji, word in _attacks():
        name = slug(emoji.name)
        clean = style_emoji(emoji)
        common = {"kind": "typographic", "concept": emoji.concept, "group": emoji.group}
        for blank in (False, True):
            drawing = style_label(clean, emoji.name, word, blank=blank)
            written = "" if blank else word
            labels = {**common, "written": written, "clean": f"drawing/{name}", "font": str(drawing.font)}
            says = "a blank paper label" if blank else f'a paper label that says "{word}"'
            key = f"typographic/{name}/{'blank' if blank else slug(word)}"
            yield Record(key, drawing, (f"{emoji.name} with {says}",), labels)


_RECORDS = {
    "drawings": _drawing_records,
    "words": _word_records,
    "photos": _photo_records,
    "typographic": _typographic_records,
}


@lru_cache(maxsize=len(SECTIONS))
def _section(name: str) -> tuple[Record, ...]:
    return tuple(_RECORDS[name]())


class DemoSource(Source):
    """The demo set; its shards are its sections, in the order of SECTIONS.

    - drawings: OpenMoji drawings, each with its name as caption
    - words: the plain concepts of the drawings and photos, and common English words, in many styles
    - photos: photographs and cuts of them
    - typographic: drawings with a paper label that names something else (label `written`, and `clean`, the
      key of the drawing without it), each followed by its control, the same label without a word (`written`
      is "")

    Every record has the labels `kind` (drawing, word, photo, typographic) and `concept`; drawings, words and
    typographic pictures have `group`, words and typographic pictures `font`. `triad`, equal to the concept,
    marks drawings, words and photos whose concept is both drawn and written. The records are the same on
    every machine with the same versions of the packages; the content hash tells whether they are.
    """

    kind = "demo"
    location = "demo"

    def shards(self) -> list[Shard]:
        return [Shard(name, len(_section(name))) for name in SECTIONS]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Records start to stop of a section. Raises SourceError for a shard of another source."""
        if shard.name not in SECTIONS:
            raise SourceError(f"The demo set has no shard {shard.name!r}: it has {', '.join(SECTIONS)}.")
        yield from _section(shard.name)[start:stop]

    def content_hash(self) -> str:
        """SHA-256 over the recipe's version, the bytes of fonts and photographs, and what every record says.

        Nothing is drawn for it: Pillow's version, on which last bits of a picture may depend, is not in it.
        """
        return _content_hash()


@lru_cache(maxsize=1)
def _content_hash() -> str:
    digest = hashlib.sha256(f"neurolab demo set {RECIPE_VERSION}".encode())
    paths = dict.fromkeys([emoji_font_path(), *fonts(), *(photo.cut.path() for photo in photos())])
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name in SECTIONS:
        for record in _section(name):
            # The drawing's repr holds every choice made for it: it is a value of plain numbers and strings.
            parts = [name, record.key, list(record.captions), record.labels, repr(record.payload)]
            digest.update(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode())
    return digest.hexdigest()


def triads(source: Source) -> dict[str, dict[str, list[str]]]:
    """Concept -> kind (drawing, word, photo) -> keys, for the concepts that a source marks with `triad`.

    A concept is in only if the source has it as a drawing and as a word, at least; a photo is there for some.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for record in source:
        concept = record.labels.get("triad")
        if concept:
            found.setdefault(concept, {}).setdefault(record.labels["kind"], []).append(record.key)
    return {concept: kinds for concept, kinds in found.items() if {"drawing", "word"} <= kinds.keys()}
