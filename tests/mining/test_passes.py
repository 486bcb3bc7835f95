"""Running ahead, as on a GPU. On the CPU the device's side of mining can be had, too: the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import neurolab
from neurolab.atlas.manifest import BUILDING
from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.mining import sieve
from neurolab.mining.checkpoint import fresh_state
from neurolab.mining.forward import Forward, Pass, Staged
from neurolab.mining.job import CHECKPOINT
from neurolab.mining.passes import computed
from neurolab.mining.remembered import Kept
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model
from tests.mining.small_build import SHARDS, SITES, NoiseSource, small_model
from tests.mining.test_resume import digests

SETTINGS: dict[str, Any] = {
    "k": 5, "batch_size": 4, "workers": 0, "threads": 1, "sample": 11, "bins": 6, "bottom": 3, "buckets": 5,
    "bucket_images": 2, "concepts": {"parity": ["even", "odd"]}, "coactivation": 64, "progress": False,
}  # fmt: skip


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forward, "runs_ahead", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a build by the host alone."""
    out = tmp_path_factory.mktemp("whole") / "atlas"
    neurolab.mine(small_model(), NoiseSource(), SITES, out, **SETTINGS)
    return digests(out)


def build(out: Path, source: NoiseSource | None = None, **settings: Any) -> dict[str, str]:
    neurolab.mine(small_model(), source or NoiseSource(), SITES, out, **SETTINGS | settings)
    return digests(out)


@pytest.mark.usefixtures("ahead")
def test_the_files_are_those_of_the_host_alone(whole: dict[str, str], tmp_path: Path) -> None:
    assert build(tmp_path / "atlas") == whole
    assert build(tmp_path / "saved", checkpoint_seconds=0) == whole
    assert build(tmp_path / "other", bins=7) != whole


def test_tokens_are_sifted_as_images_are(
    tiny_vit: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sieve, "UNITS_AT_ONCE", 16 * 300)  # so that each site has a sieve of its own
    sites = ["block1.mlp", "block2.mlp", "block2"]
    settings = SETTINGS | {"reduction": "token", "sample": 150}
    neurolab.mine(tiny_vit, NoiseSource(), sites, tmp_path / "host", **settings)
    monkeypatch.setattr(Forward, "runs_ahead", True)
    neurolab.mine(tiny_vit, NoiseSource(), sites, tmp_path / "ahead", **settings)
    assert digests(tmp_path / "ahead") == digests(tmp_path / "host")


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("seconds", [0, 1e9])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_and_gone_on_with(
    whole: dict[str, str], tmp_path: Path, seconds: float, error: type[BaseException]
) -> None:
    out = tmp_path / "atlas"
    for fail_at in (9, 18, 18):
        source = NoiseSource(fail_at=fail_at)
        source.error = error
        with pytest.raises(error):
            build(out, source, checkpoint_seconds=seconds)
        assert (out / BUILDING / CHECKPOINT).exists()
    assert build(out) == whole


@pytest.mark.usefixtures("ahead")
def test_an_error_leaves_whole_batches_only() -> None:
    source, model = NoiseSource(fail_at=10), small_model()
    source.error = RuntimeError
    sites = [find_site(model, site) for site in SITES]
    state = fresh_state(sites, Kept(sample=2))
    batches = load_batches(source, ImageTransform((16, 16)), batch_size=4, workers=0)
    with Forward(model, sites, "max") as forward, pytest.raises(RuntimeError):
        for ready in computed(forward, batches, state):
            state.take(ready.batch, ready.found, ready.concepts)
    # The third cannot be read when the second is computed, and the first has been taken in.
    assert state.done == {"first": 1} and state.images == 3


def test_the_host_alone_computes_no_batch_before_the_last_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = NoiseSource(), small_model()
    sites = [find_site(model, site) for site in SITES]
    state, taken, batch_size = fresh_state(sites, Kept(sample=2)), [], 4
    start = Forward.start

    def noting(self: Forward, staged: Staged) -> Pass:
        taken.append(state.records)
        return start(self, staged)

    monkeypatch.setattr(Forward, "start", noting)
    batches = load_batches(source, ImageTransform((16, 16)), batch_size=batch_size, workers=0)
    with Forward(model, sites, "max") as forward:
        for ready in computed(forward, batches, state):
            state.take(ready.batch, ready.found, ready.concepts)
    assert state.images == 61 and not state.sieves
    shards = [range(0, size, batch_size) for size in SHARDS.values()]
    assert taken == [*shards[0], *(SHARDS["first"] + start for start in shards[1])]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_host_alone_would_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model().to("cuda")
    neurolab.mine(model, NoiseSource(), SITES, tmp_path / "ahead", **SETTINGS)
    monkeypatch.setattr(Forward, "runs_ahead", False)
    neurolab.mine(model, NoiseSource(), SITES, tmp_path / "host", **SETTINGS)
    assert digests(tmp_path / "ahead") == digests(tmp_path / "host")
