from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from neurolab.models.pocket import TOKENIZER, tokenizer_from
from neurolab.models.zoo import Model
from neurolab.training.export import write_tokenizer, write_weights
from neurolab.training.prepare import TEXT_SCHEMA
from neurolab.training.text_tower import TextPairs, encode_text

TEXTS = ["a dog", "a very long caption about a brown dog that runs over green grass", "", "zebra"]


def test_trimmed_encoding_is_open_clips(tiny_clip: Model) -> None:
    module = tiny_clip.module
    tokens = tiny_clip.tokenizer(TEXTS)
    with torch.inference_mode():
        torch.testing.assert_close(encode_text(module, tokens), module.encode_text(tokens))


def test_cut_tokenizer_has_its_size_and_loses_no_text(tmp_path: Path) -> None:
    import open_clip

    write_tokenizer(tmp_path / TOKENIZER, 4096)
    (tmp_path / "config.json").write_text('{"model_cfg": {"text_cfg": {"context_length": 32}}}')
    cut, full = tokenizer_from(tmp_path), open_clip.tokenizer.SimpleTokenizer()
    assert cut.vocab_size == 4096
    for text in (*TEXTS, "electroencephalography of axolotls, 42 times!"):
        assert max(cut.encode(text), default=0) < 4094
        assert cut.decode(cut.encode(text)) == full.decode(full.encode(text))
    assert len(cut.encode("electroencephalography")) > len(full.encode("electroencephalography"))
    assert cut(["dog"]).shape == (1, 32)


def test_same_weights_give_the_same_bytes(tmp_path: Path, tiny_clip: Model) -> None:
    state = tiny_clip.module.state_dict()
    write_weights(tmp_path / "a", state)
    write_weights(tmp_path / "b", dict(reversed(state.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def pairs(tmp_path: Path) -> TextPairs:
    rows = [{"kind": "name", "text": "dog", "image": i} for i in range(5)]
    rows += [{"kind": "name", "text": "cat", "image": i} for i in range(5, 8)]
    captions = [
        {"kind": "caption", "text": f"caption {j} of {i}", "image": i} for i in range(3) for j in range(5)
    ]
    for name, part in (("classes", rows), ("captions", captions)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(part, schema=TEXT_SCHEMA), tmp_path / name / "texts.parquet")
    return TextPairs([tmp_path / "classes", tmp_path / "captions"], np.array([0, 8, 11]))


def test_a_batch_never_holds_a_text_twice(pairs: TextPairs) -> None:
    seen: set[str] = set()
    for texts, images in pairs.epoch(4, random.Random(0), {"name": 6, "caption": 2}):
        assert len(set(texts)) == len(texts) == len(images)
        for text, image in zip(texts, images, strict=True):
            expected = range(5) if "dog" in text else range(5, 8) if "cat" in text else range(8, 11)
            assert image in expected, (text, image)
        seen |= set(texts)
    assert {"dog" in text for text in seen} == {True, False}
