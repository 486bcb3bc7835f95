"""Words to write: common English words by theme, and the words of CLIP's own vocabulary.

The themes follow the families of neurons that "Multimodal Neurons in Artificial Neural Networks" (Goh et al.,
Distill 2021) describes: colours, feelings, regions, religions, holidays, art styles and so on.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from neurolab.errors import SourceError

# "aaaah", "hahaha": no words.
_STUTTER = re.compile(r"(.)\1\1|(..)\2\2")

_THEMES = {
    "colours": (
        "red orange yellow green blue purple pink brown black white grey gold silver turquoise violet "
        "beige maroon navy scarlet crimson"
    ),
    "feelings": (
        "happy sad joy fear anger rage surprise shock disgust hope pride shame guilt envy jealous calm "
        "bored lonely nervous anxious proud grateful curious shy brave hate trust grief sorrow serious "
        "creative playful hurt stressed excited furious gentle mood smile"
    ),
    "time": (
        "today tomorrow yesterday morning noon afternoon evening midnight monday tuesday wednesday "
        "thursday friday saturday sunday january february march april june july august september october "
        "november december spring summer autumn winter weekend century history future yesterday season "
        "minute hour week month year"
    ),
    "places": (
        "africa asia europe america london paris rome berlin moscow tokyo beijing mumbai cairo sydney "
        "texas california york chicago hollywood kingdom village town street road river lake ocean island "
        "forest jungle valley field farm garden kitchen bedroom bathroom garage market restaurant cafe "
        "library theater airport harbor border north south east west country downtown"
    ),
    "belief": (
        "god jesus christ bible holy prayer faith heaven hell soul saint priest monk pope temple buddha "
        "hindu jewish muslim christian catholic religion miracle blessing"
    ),
    "occasions": (
        "halloween easter thanksgiving carnival festival anniversary holiday vacation parade ceremony "
        "concert marathon picnic"
    ),
    "stories": (
        "batman superman spiderman pokemon minecraft hero villain princess knight wizard witch pirate "
        "monster giant king queen castle legend magic treasure quest"
    ),
    "people": (
        "mother father sister brother daughter son uncle aunt grandmother grandfather friend neighbor "
        "teenager adult twins bride groom boss worker soldier sailor nurse doctor lawyer driver dancer "
        "actor actress president minister mayor champion winner leader stranger crowd team"
    ),
    "body": (
        "head face hair skin chin cheek neck shoulder elbow finger thumb knee toe heart stomach blood "
        "mustache makeup"
    ),
    "art": (
        "drawing sketch cartoon comic anime portrait landscape sculpture statue photograph poster logo "
        "icon pattern mosaic graffiti poem novel song melody rhythm opera jazz"
    ),
    "nature": (
        "nature weather sky sunlight shadow thunder breeze frost flood drought earthquake stone sand mud "
        "dust cliff cave waterfall meadow seed root branch bark grass moss"
    ),
    "animals": (
        "puppy kitten pony lamb calf crow pigeon sparrow seagull hawk falcon salmon trout tuna wasp moth "
        "caterpillar toad gecko"
    ),
    "food": (
        "breakfast lunch supper dessert sugar flour pepper vinegar jam toast cereal yogurt cream sausage "
        "turkey salmon berry plum apricot pumpkin spinach cabbage celery juice water"
    ),
    "things": (
        "table lamp carpet curtain pillow blanket bottle plate bowl pan oven stove fridge paper glue tape "
        "rope nail brush wallet ticket passport money price engine tyre bridge tower wall roof floor "
        "fence gate robot"
    ),
    "signs": (
        "open closed exit entrance danger caution help sale private welcome hello goodbye thanks please "
        "push pull ladies gentlemen free new vote pay quiet slow yield reserved vacancy"
    ),
    "ideas": (
        "peace war freedom justice truth beauty power strength wisdom knowledge science education law "
        "crime danger health wealth success failure work sport game science business bank news internet "
        "energy gravity speed silence music dream memory luck chance life death birth"
    ),
    "deeds": (
        "eat drink cook read write draw sing dance walk run jump swim fly climb fall sleep wake think "
        "learn teach build break open shut give take buy sell push win lose play fight laugh cry shout "
        "whisper listen watch"
    ),
    "qualities": (
        "big small tall short long wide narrow heavy light fast slow old young rich poor strong weak warm "
        "cool wet dry clean dirty loud soft hard sharp sweet sour bitter fresh broken empty full early "
        "late true false"
    ),
}


def themes() -> dict[str, str]:
    """Common English words, each with its theme, in a fixed order; a word of several themes has the first."""
    found: dict[str, str] = {}
    for theme, words in _THEMES.items():
        for word in words.split():
            found.setdefault(word, theme)
    return found


@lru_cache(maxsize=1)
def _clip_tokens() -> tuple[str, ...]:
    """The tokens of CLIP's byte pair encoding that end a word, most frequent first, in ASCII letters only."""
    spec = find_spec("open_clip")  # finds the package without importing it: that would import torch
    if spec is None or spec.origin is None:
        raise SourceError("CLIP's vocabulary comes with the package open_clip_torch, which is not installed.")
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    tokens = ("".join(merge.split()) for merge in merges)
    ends = (token.removesuffix("</w>") for token in tokens if token.endswith("</w>"))
    words = (token for token in ends if token.isascii() and token.isalpha())
    return tuple(word for word in words if not _STUTTER.search(word))


def common_words(count: int, shortest: int = 4) -> list[str]:
    """The `count` most frequent whole words of CLIP's vocabulary, of at least `shortest` letters.

    The vocabulary does not tell words from endings ("ation"). Here a token counts as a word when at least as
    many longer tokens begin with it as end in it: "heart" begins hearts, heartbreak; "ation" only ends words.
    That loses some words ("time", "ball") and lets pass names and a few fragments ("inst"). Raises
    SourceError when there are fewer than `count`.
    """
    tokens = _clip_tokens()
    begins, ends = Counter[str](), Counter[str]()
    for token in tokens:
        begins.update(token[:i] for i in range(shortest, len(token)))
        ends.update(token[i:] for i in range(1, len(token) - shortest + 1))
    words = [t for t in tokens if len(t) >= shortest and begins[t] >= max(1, ends[t])]
    if len(words) < count:
        raise SourceError(f"CLIP's vocabulary has {len(words)} such words, fewer than the {count} asked for.")
    return words[:count]
