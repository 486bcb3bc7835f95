"""What the pocket learns from, part by part: no validation or test split, no known text embedding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from neurolab.data.chance import shuffled
from neurolab.data.folder import FolderSource
from neurolab.data.sources import Record, open_source
from neurolab.data.text import render_word
from neurolab.training.pictures import frequent_phrases, pasted_records, written_records

# Where Debian's packages openclipart-png and tuxpaint-stamps-default put their pictures.
CLIPART, STAMPS = Path("/usr/share/openclipart/png"), Path("/usr/share/tuxpaint/stamps")
# The rest of the clip art is stars in 200 shapes, flags, and icons of old desktops.
CLIPART_TOPICS = frozenset([
    "animals", "buildings", "containers", "decorations", "education", "electronics", "food",
    "geography", "office", "people", "plants", "recreation", "science", "tools", "transportation",
])  # fmt: skip

Text = tuple[str, str]
"""The kind of a text, which decides the phrases it is put in, and the text."""


@dataclass(frozen=True)
class Part:
    """One part of the training data.

    known: files of the teacher's embeddings, keyed by record; without one the teacher embeds the image.
    mirrored: whether the mirror image is as good; letters are not. optional: whether it may be missing, as it
    comes with a package of the system.
    """

    name: str
    records: Callable[[], Iterable[Record]]
    texts: Callable[[Record], list[Text]]
    known: tuple[Path, ...] = ()
    mirrored: bool = False
    optional: bool = False


def read_all(spec: str | Path) -> Iterator[Record]:
    yield from open_source(spec)


def no_texts(record: Record) -> list[Text]:
    """A pasted word has no true text: the teacher reads it, more or less, and the image tower learns that."""
    return []


def caption_texts(record: Record) -> list[Text]:
    return [("caption", caption) for caption in record.captions]


def class_texts(record: Record) -> list[Text]:
    """Every WordNet synonym of a Tiny-ImageNet class, the first of which is its label."""
    return [("name", name.strip()) for name in record.labels["names"].split(",")]


def word_texts(record: Record) -> list[Text]:
    return [("word", record.captions[0])]


def drawing_texts(record: Record) -> list[Text]:
    """What a stamp's caption names, without the article that the templates bring: "A guinea fowl."."""
    if not record.captions:
        return []
    name = re.sub(r"^(an?|the)\s+", "", record.captions[0].strip().rstrip(".!"), flags=re.IGNORECASE)
    return [("drawing", name)]


def demo_texts(record: Record) -> list[Text]:
    return [("drawing" if record.labels["kind"] == "drawing" else "photo", record.captions[0])]


def said(texts: Iterable[str]) -> set[str]:
    """The words of some texts."""
    return {word for text in texts for word in re.findall("[a-z]+", text.lower())}


def plain_word_records(words: Iterable[str]) -> Iterator[Record]:
    """The protocol of the known word embeddings: DejaVu Sans, 48 px, black on white, centred, 224 x 224."""
    for word in words:
        draw = partial(render_word, word, size=(224, 224), font="DejaVuSans", font_size=48)
        yield Record(word, draw, (word,))


def folder_records(folder: Path, topics: frozenset[str] | None = None) -> list[Record]:
    """The pictures of a folder, of some of its subfolders; none where the folder is not installed."""
    if not folder.is_dir():
        return []
    return [r for r in FolderSource(folder) if topics is None or r.key.partition("/")[0] in topics]


def word_list(data: Path, shortest: int) -> list[str]:
    """The English words of at least `shortest` letters, most frequent first."""
    listed = (data / "words" / "google-10000-english.txt").read_text(encoding="utf-8").split()
    return [word for word in listed if len(word) >= shortest]


def known_keys(paths: Iterable[Path]) -> set[str]:
    return set(known_embeddings(paths))


def known_embeddings(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Teacher embeddings by the last component of their key."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            names = [last_name(key) for key in archive["keys"].tolist()]
            found |= dict(zip(names, archive["embeddings"], strict=True))
    return found


def last_name(key: str) -> str:
    """The last component of a key, by which records and known embeddings are matched."""
    return key.rsplit("/", 1)[-1]


class TrainingData:
    """The data under one folder (the layout of NEUROLAB_DATA), and what is installed beside it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        embeddings = data / "clip-b16"
        self.known_flickr = (embeddings / "image-embeddings-flickr8k-train.npz",)
        self.known_tiny = tuple(sorted(embeddings.glob("image-embeddings-tiny-imagenet-train-*.npz")))
        self.known_words = (embeddings / "image-embeddings-words.npz",)

    def flickr(self) -> Iterator[Record]:
        for path in sorted((self.data / "flickr8k").glob("flickr8k-train-*.tar")):
            yield from read_all(path)

    def tiny(self, labelled: bool) -> Iterator[Record]:
        """The photos of Tiny-ImageNet's train split whose teacher embedding is known, or the others."""
        known = known_keys(self.known_tiny)
        for path in sorted((self.data / "tiny-imagenet").glob("train-*.parquet")):
            yield from (record for record in read_all(path) if (last_name(record.key) in known) == labelled)

    def plain_words(self) -> Iterator[Record]:
        with np.load(self.known_words[0], allow_pickle=False) as archive:
            yield from plain_word_records(archive["keys"].tolist())

    def words(self) -> list[str]:
        return word_list(self.data, shortest=2)

    def thing_words(self) -> list[str]:
        """The words of the list without a known plain picture that say what the pictures show: that occur in
        captions of two photos or more, or in the names of classes and drawings."""
        plain, photos = known_keys(self.known_words), Counter[str]()
        for record in self.flickr():
            photos.update(said(record.captions))
        names = {record.labels["names"] for record in self.tiny(labelled=True)}
        names |= {name for record in self.demo("drawing") for _, name in drawing_texts(record)}
        named = said(names)
        return [word for word in self.words() if word not in plain and (photos[word] > 1 or word in named)]

    def things(self) -> Iterator[Record]:
        yield from written_records(self.thing_words())

    def written(self) -> Iterator[Record]:
        """The other words without a known plain picture, and frequent phrases of the captions."""
        shown = known_keys(self.known_words) | set(self.thing_words())
        captions = (caption for record in self.flickr() for caption in record.captions)
        rarer = [word for word in self.words() if word not in shown]
        yield from written_records([*rarer, *frequent_phrases(captions, 1000)])

    def restyled(self) -> Iterator[Record]:
        """The words of the plain pictures in other faces and colours."""
        yield from written_records(sorted(known_keys(self.known_words)))

    def sentences(self) -> Iterator[Record]:
        """Every photo's first caption as a written sentence."""
        yield from written_records(record.captions[0] for record in self.flickr())

    def pasted(self) -> Iterator[Record]:
        """Photos and drawings with a word on each: one of the class names, or a common word."""
        names = {r.labels["label"] for r in self.tiny(labelled=True)}
        common = shuffled([word for word in self.words()[:4000] if len(word) > 3], "pasted words")[
            : len(names)
        ]
        pictures = [*self.flickr(), *self.tiny(labelled=True), *self.demo("drawing")]
        yield from pasted_records(pictures, sorted(names) + common)

    def demo(self, *kinds: str) -> Iterator[Record]:
        yield from (record for record in open_source("demo") if record.labels["kind"] in kinds)

    def parts(self) -> dict[str, Part]:
        """Every part by its name, in the order in which they are prepared."""
        clipart, stamps = partial(folder_records, CLIPART, CLIPART_TOPICS), partial(folder_records, STAMPS)
        parts = [
            Part("flickr8k", self.flickr, caption_texts, self.known_flickr, mirrored=True),
            Part("tiny-imagenet", partial(self.tiny, True), class_texts, self.known_tiny, mirrored=True),
            Part("words", self.plain_words, word_texts, self.known_words),
            Part("demo", partial(self.demo, "drawing", "photo"), demo_texts),
            Part("things", self.things, word_texts),
            Part("written", self.written, word_texts),
            Part("restyled", self.restyled, word_texts),
            Part("pasted", self.pasted, no_texts),
            Part("tiny-imagenet-more", partial(self.tiny, False), class_texts, mirrored=True),
            Part("sentences", self.sentences, no_texts),
            Part("stamps", stamps, drawing_texts, optional=True),
            Part("clipart", clipart, no_texts, optional=True),
        ]
        return {part.name: part for part in parts}
