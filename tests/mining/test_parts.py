"""A source mined in parts, put together: the same files as in one piece, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurolab.data.decode import ImageTransform
from neurolab.data.loader import ALL_DONE
from neurolab.data.sources import Record, Shard
from neurolab.errors import UnknownSiteError
from neurolab.mining import miner
from neurolab.mining.checkpoint import MiningState
from neurolab.mining.cluster import Cluster
from neurolab.mining.forward import Forward
from neurolab.mining.parts import Part, Span, SpanSource, Task, runs, spans
from neurolab.mining.remembered import Kept
from neurolab.models.sites import find_site
from tests.mining.small_build import SHARDS, NoiseSource, Unmeasured, small_build, small_model
from tests.mining.test_resume import digests

SHARD_LIST = [Shard(name, size) for name, size in SHARDS.items()]  # 37 and 26 records: 5 and 4 groups of 8


def test_spans_are_what_is_left() -> None:
    found = [(s.shard.name, s.first, s.stop) for s in spans(SHARD_LIST, {"first": 2}, 8, 2)]
    assert found == [("first", 2, 4), ("first", 4, 5), ("second", 0, 2), ("second", 2, 4)]
    assert list(spans(SHARD_LIST, {"first": 5, "second": ALL_DONE}, 8, 2)) == []
    stream = [Shard("stream", None)]
    assert list(spans(stream, {"stream": 3}, 8, 2)) == [Span(stream[0], 3, None)]
    assert list(spans(stream, {}, 8, 2, of_unknown=4)) == [Span(stream[0], 0, 4)]


def test_a_span_is_read_and_no_more(tmp_path: Path) -> None:
    source = NoiseSource(tmp_path / "log")
    part = SpanSource(source, Span(SHARD_LIST[0], 1, 3), 8)
    assert [shard.size for shard in part.shards()] == [24]
    keys = [record.key for record in part.read(part.shards()[0], 8)]
    assert keys == [f"first/{i}" for i in range(8, 24)]
    assert (tmp_path / "log").read_text().split() == keys


def test_runs_are_of_as_many_groups_as_are_asked_for() -> None:
    every = list(spans(SHARD_LIST, {}, 8, 2))  # of 2, 2, 1, 2 and 2 groups
    assert [len(run) for run in runs(every, 3)] == [2, 2, 1]
    assert [span for run in runs(every, 3) for span in run] == every
    assert [len(run) for run in runs(every, 1)] == [1] * 5
    assert list(runs([], 3)) == []
    streams = list(spans([Shard("a", None), Shard("b", None), Shard("c", None)], {}, 8, 2))
    assert [len(run) for run in runs([every[0], *streams], 1000)] == [2, 1, 1]


def in_parts(cuts: Sequence[int], together: bool = False) -> Any:
    """What stands in for a cluster: all groups, cut there; the parts of one cut are a run, or mined in any
    order."""

    def mine(
        cluster: Cluster, forward: Forward, task: Task, settings: dict[str, Any], state: MiningState
    ) -> Iterator[Part]:
        every = list(spans(task.source.shards(), state.done, task.batch_size, 1))
        with forward:
            for start, stop in pairwise([0, *cuts, len(every)]):
                edges = state.edges()  # those that are known when the cut begins
                if together:
                    yield task.mine(forward, every[start:stop], edges)
                    continue
                mined = {i: task.mine(forward, [every[i]], edges) for i in reversed(range(start, stop))}
                yield from (mined[i] for i in range(start, stop))

    return mine


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("sample", [1024, 20])
@pytest.mark.parametrize("cuts", [[], [4], [1, 2, 3, 5, 6, 8]])
def test_one_two_and_seven_parts_give_the_same_bytes(
    cuts: list[int], sample: int, together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"sample": sample, "coactivation": 64, "concepts": {"parity": ["odd", "even"]}}
    small_build(tmp_path / "whole", **more)
    monkeypatch.setattr(miner, "mine_on_ray", in_parts(cuts, together))
    small_build(tmp_path / "parts", cluster=Cluster(), **more)
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


def test_streams_are_mined_in_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small_build(tmp_path / "whole", Unmeasured())
    monkeypatch.setattr(miner, "mine_on_ray", in_parts([]))
    parts = small_build(tmp_path / "parts", Unmeasured(), cluster=Cluster())
    assert digests(parts.path) == digests(whole.path)


def test_the_end_of_a_stream_is_noted(tmp_path: Path) -> None:
    """So that it is not asked for more, again and again."""
    source, model, states = Unmeasured(), small_model(), []
    shard = source.shards()[1]
    task = Task(source, ImageTransform((16, 16), "shortest", "bicubic", None), 8, Kept(k=2, bins=2), 0)
    with Forward(model, [find_site(model, "0")], "max") as forward:
        for span in (Span(shard, 0, 2), Span(shard, 2, 9), Span(shard, 4, None)):
            states.append(task.mine(forward, [span], None).state)
    assert [state.done for state in states] == [{"second": 2}, {"second": ALL_DONE}, {"second": ALL_DONE}]
    assert [state.records for state in states] == [16, 10, 0]


def test_a_span_to_the_end_of_a_shard_finishes_it() -> None:
    """And one that ends before it does not, though nothing is behind it in the span."""
    task = Task(NoiseSource(), ImageTransform((16, 16), "shortest", "bicubic", None), 8, Kept(k=2, bins=2), 0)
    with Forward(small_model(), [], "max") as forward:
        for span in spans(SHARD_LIST, {}, 8, 2):
            state = task.mine(forward, [span], None).state
            ended = span in (Span(SHARD_LIST[0], 4, 5), Span(SHARD_LIST[1], 2, 4))
            assert state.done == {span.shard.name: ALL_DONE if ended else span.stop}


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize("groups", [1, 2, 9])
def test_only_the_last_span_of_a_shard_ends_it(size: int, groups: int) -> None:
    """Also where the shard is so many whole groups: no shorter one tells of its end."""
    every = list(spans([Shard("a", size)], {}, 4, groups))
    ends = [span.ends(min(4 * (span.stop or 0), size) - 4 * span.first, 4) for span in every]
    assert ends == [False] * (len(every) - 1) + [True]


def test_buckets_and_lowest_of_an_atlas_are_those_of_all_activations(tmp_path: Path) -> None:
    atlas = small_build(tmp_path / "a", bottom=4, buckets=6, bucket_images=3, k=63)
    site = atlas.site("0")
    assert site.lowest is not None and site.buckets is not None
    for unit in range(site.units):
        there = site.images[unit] >= 0
        value = dict(zip(site.images[unit][there].tolist(), site.values[unit][there].tolist(), strict=True))
        assert len(value) == 61  # all but the two bad ones
        order = sorted(value, key=lambda image: (value[image], image))
        assert site.lowest["images"][unit].tolist() == order[:4]
        assert site.lowest["values"][unit].tolist() == [value[i] for i in order[:4]]
        edges, counts = site.buckets["edges"][unit], site.buckets["counts"][unit]
        edges = edges[np.isfinite(edges)]
        assert 3 < len(edges) <= 7 and len(set(np.diff(edges))) == 1
        assert edges[0] <= min(value.values()) < edges[1] and edges[-2] <= max(value.values()) < edges[-1]
        assert counts.tolist()[: len(edges) - 1] == np.histogram(list(value.values()), edges)[0].tolist()
        for bucket, images in enumerate(site.buckets["images"][unit].tolist()):
            drawn = [image for image in images if image >= 0]
            assert len(drawn) == min(3, counts[bucket])
            assert all(edges[bucket] <= value[image] < edges[bucket + 1] for image in drawn)


def test_concepts_and_co_activation_reach_the_atlas(tmp_path: Path) -> None:
    more = {"coactivation": 1024, "concepts": {"parity": ["odd", "even"]}, "k": 63, "reduction": "mean"}
    atlas = small_build(tmp_path / "a", **more)
    site = atlas.site("0")
    assert site.buckets is not None and site.coactivation is not None
    labels = np.array([row.labels.get("parity", "") for row in atlas.images(range(len(atlas)))])
    values = np.zeros((site.units, len(atlas)), np.float32)
    np.put_along_axis(values, site.images[:, :61], site.values[:, :61], axis=1)
    for unit in range(site.units):
        edges = site.buckets["edges"][unit][np.isfinite(site.buckets["edges"][unit])]
        for number, name in enumerate(("odd", "even")):
            expected = np.histogram(values[unit, labels == name], edges)[0]
            assert site.buckets["concepts"][unit, : len(edges) - 1, number].tolist() == expected.tolist()
    assert site.buckets["concepts"].sum() < site.buckets["counts"].sum()  # some have no label
    projection = site.coactivation["projection"]
    np.testing.assert_allclose(projection @ projection.T, np.corrcoef(values), atol=0.25)


def test_records_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Record] = []

    class Counting(NoiseSource):
        def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
            for record in super().read(shard, start, stop):
                log.append(record)
                yield record

    monkeypatch.setattr(miner, "mine_on_ray", in_parts([3, 6]))
    small_build(tmp_path / "a", Counting(), cluster=Cluster())
    assert len(log) == len({record.key for record in log}) == sum(SHARDS.values())


def test_some_units_are_as_in_a_build_of_all(tmp_path: Path) -> None:
    """And of the others nothing was seen."""
    whole = small_build(tmp_path / "whole", coactivation=64)
    some = small_build(tmp_path / "some", sites=["2"], units=["0/7", "0/2", "0:out/7"], coactivation=64)
    assert some.manifest["settings"]["units"] == {some.site_name("0"): [2, 7]}
    assert digests(some.path)["sites/2@out/exemplars.npz"] == digests(whole.path)["sites/2@out/exemplars.npz"]
    a, b = some.site("0"), whole.site("0")
    assert a.buckets and b.buckets and a.lowest and b.lowest and a.coactivation and b.coactivation
    mined, others = [2, 7], [0, 1, 3, 4, 5, 6, 8, 9]
    for x, y in [
        *(
            (getattr(a, name), getattr(b, name))
            for name in ("values", "images", "position", "histogram", "sd")
        ),
        *((a.buckets[name], b.buckets[name]) for name in a.buckets),
        *((a.lowest[name], b.lowest[name]) for name in a.lowest),
        (a.coactivation["projection"], b.coactivation["projection"]),
    ]:
        assert x.shape == y.shape and np.array_equal(x[mined], y[mined], equal_nan=x.dtype.kind == "f")
    assert (a.images[others] == -1).all() and (a.count[others] == 0).all() and np.isnan(a.sd[others]).all()
    assert some.unit("0/3").exemplars == [] and len(some.unit("0/7").exemplars) == 5
    for wrong, match in (("0/10", "units 0 to 9, not 10"), ("0", "names no unit"), ("9/1", "no site")):
        with pytest.raises(UnknownSiteError, match=match):
            small_build(tmp_path / "none", sites=[], units=[wrong])
