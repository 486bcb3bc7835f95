"""The pictures that the pocket learns reading from: words in many faces, and words on pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from neurolab.data.chance import between, fraction, pick
from neurolab.data.decode import decode_image, resize_crop
from neurolab.data.drawings import style_word
from neurolab.data.labels import INK, paste_label
from neurolab.data.sources import Drawing, Payload, Record
from neurolab.data.text import FONT_NAMES, word_picture

PIXELS = 224
# Faces of the packages of the extra `train`: sans, serif, rounded, condensed, and two hands.
PACKAGED_FACES = {
    "font_lato": ("Lato-Regular", "Lato-Black", "Lato-Light"),
    "font_source_serif_pro": ("SourceSerifPro-Regular", "SourceSerifPro-It", "SourceSerifPro-Black"),
    "font_caladea": ("Caladea-Regular", "Caladea-BoldItalic"),
    "font_manrope": ("Manrope-Regular", "Manrope-ExtraBold"),
    "font_fredoka_one": ("FredokaOne-Regular",),
    "font_fjallaone": ("FjallaOne-Regular",),
    "font_amatic_sc": ("AmaticSC-Bold",),
    "font_intuitive": ("Intuitive",),
}
_INKS = ((20, 20, 24), (150, 20, 26), (20, 50, 130), (10, 90, 50), (255, 255, 255), (255, 220, 40))
# Words that say nothing where a phrase begins or ends with them.
LOOSE = frozenset([
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "is", "are", "was", "it",
    "its", "his", "her", "their", "by", "for", "from", "as", "into", "that", "this", "there", "two",
    "one", "while", "who", "which", "near", "up", "down", "out", "over", "through", "some", "other",
    "another", "has", "have", "not", "him", "them", "he", "she", "they", "being", "be", "wearing",
    "looking", "very", "next", "front",
])  # fmt: skip


@lru_cache(maxsize=1)
def training_faces() -> tuple[str | Path, ...]:
    """The faces that words are written in: matplotlib's, and those of the extra `train` where installed."""
    found: list[str | Path] = list(FONT_NAMES)
    for package, faces in PACKAGED_FACES.items():
        spec = find_spec(package)
        if spec and spec.origin:
            paths = [Path(spec.origin).parent / "files" / f"{face}.ttf" for face in faces]
            found += [path for path in paths if path.is_file()]
    return tuple(found)


@dataclass(frozen=True)
class PastedWord:
    """A word pasted on a picture: on a paper label, or the letters alone; the teacher says what it reads.

    width: the label's or the word's share of the picture's side. centre: where it lies, (x, y) fractions.
    """

    picture: Payload
    word: str
    font: str | Path
    ink: tuple[int, int, int] = INK
    width: float = 0.6
    centre: tuple[float, float] = (0.5, 0.7)
    angle: float = 0.0
    label: bool = True

    def __call__(self) -> Image.Image:
        image = Image.fromarray(resize_crop(decode_image(self.picture), (PIXELS, PIXELS)))
        if self.label:
            return paste_label(
                image, self.word, width=self.width, centre=self.centre, font=self.font, ink=self.ink,
                angle=self.angle,
            )  # fmt: skip
        edge = (0, 0, 0) if sum(self.ink) > 380 else (255, 255, 255)
        word = word_picture(self.word, self.font, 56, self.ink, outline=edge, angle=self.angle)
        scale = min(self.width * PIXELS / word.width, 0.9 * PIXELS / word.height)
        word = word.resize((max(1, round(word.width * scale)), max(1, round(word.height * scale))))
        place = [
            max(0, min(round(c * PIXELS - part / 2), PIXELS - part))
            for c, part in zip(self.centre, word.size, strict=True)
        ]
        image.paste(word, (place[0], place[1]), word)
        return image


def style_pasted(picture: Payload, key: str, word: str) -> PastedWord:
    """`word` on the picture `key`: two thirds on paper labels; face, ink, size, place and angle by name."""
    name = ("pasted", key, word)
    return PastedWord(
        picture,
        word,
        pick(training_faces(), "face", *name),
        pick(_INKS, "ink", *name) if fraction("paper", *name) > 0.67 else pick(_INKS[:4], "ink", *name),
        between(0.4, 0.95, "width", *name),
        (between(0.2, 0.8, "x", *name), between(0.15, 0.85, "y", *name)),
        round(between(-12, 12, "angle", *name), 1),
        fraction("paper", *name) <= 0.67,
    )


def pasted_records(pictures: Iterable[Record], words: Sequence[str]) -> Iterator[Record]:
    """Every picture with one of `words` on it, chosen by its key."""
    for record in pictures:
        word = pick(words, "pasted word", record.key)
        yield Record(f"{record.key}/{word}", style_pasted(record.payload, record.key, word))


def written_records(texts: Iterable[str]) -> Iterator[Record]:
    """Every text once, each in a face, colours, size, background and position of its own."""
    for text in texts:
        # Style 0 of a word may be plain; the pictures with known embeddings all are.
        drawing: Drawing = style_word(text, 1, training_faces())
        yield Record(f"{text}/1", drawing, (text,))


def frequent_phrases(captions: Iterable[str], count: int) -> list[str]:
    """The `count` most frequent phrases of two and three words, none of them loose at an end."""
    seen: Counter[str] = Counter()
    for caption in captions:
        words = re.findall(r"[a-z]+", caption.lower())
        for length in (2, 3):
            for start in range(len(words) - length + 1):
                phrase = words[start : start + length]
                if phrase[0] not in LOOSE and phrase[-1] not in LOOSE:
                    seen[" ".join(phrase)] += 1
    return [phrase for phrase, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:count]]
