"""A build on a Ray cluster of two nodes, whose actor dies in the middle: the files of one process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neurolab.data.decode import ImageTransform
from neurolab.data.sources import Record, Shard
from neurolab.errors import NeurolabError, SourceError
from neurolab.mining import cluster as cluster_module
from neurolab.mining.checkpoint import MiningState
from neurolab.mining.cluster import Cluster, _first, _groups_of_run, require_ray
from neurolab.mining.parts import Task, spans
from neurolab.mining.remembered import Kept
from tests.mining.small_build import NoiseSource, small_build
from tests.mining.test_resume import digests
from tests.mining.test_tokens import merging

SAMPLE = 20  # images that the histograms' edges come from: three groups of the nine

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'neurolab[ray]'")


class Deadly(NoiseSource):
    """Kills the process that reads a certain record, the first time or always; and notes which process read
    what."""

    always = False

    def __init__(self, folder: Path, record: int) -> None:
        super().__init__()
        self.folder, self.record, self.again = folder, record, self.always

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number, record in enumerate(super().read(shard, start, stop), start):
            (self.folder / f"{os.getpid()}").touch()
            died = self.folder / "died"
            if (shard.name, number) == ("second", self.record) and (self.again or not died.exists()):
                died.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            yield record


class Broken(NoiseSource):
    """Cannot be read on."""

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        raise SourceError("the disk of noise is full of holes")


class Wrong(NoiseSource):
    """Has a bug."""

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        raise RuntimeError("a programmer forgot something")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    from ray.cluster_utils import Cluster as Nodes

    # Workers import this module by its name.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    ray.init(nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_a_cluster_of_its_own_ends_with_the_build(tmp_path: Path) -> None:
    assert not ray.is_initialized()
    small_build(tmp_path / "one")
    small_build(tmp_path / "local", cluster=Cluster("local"))
    assert not ray.is_initialized()
    assert digests(tmp_path / "local") == digests(tmp_path / "one")


def test_an_actor_dies_and_the_files_are_those_of_one_process(tmp_path: Path, two_nodes: Any) -> None:
    small_build(tmp_path / "whole", sample=SAMPLE)
    source = Deadly(tmp_path / "notes", record=9)
    source.folder.mkdir()
    # An actor is as large as a node, so that they take all that there is.
    cluster, large = Cluster(two_nodes.address), {"sample": SAMPLE, "workers": 1}
    small_build(tmp_path / "ray", source, cluster=cluster, **large)
    assert ray.cluster_resources()["CPU"] == 4 and len(ray.nodes()) == 2
    readers = {int(path.name) for path in source.folder.iterdir() if path.name.isdigit()}
    assert os.getpid() not in readers
    assert int((source.folder / "died").read_text()) in readers
    assert len(readers) >= 3
    assert digests(tmp_path / "ray") == digests(tmp_path / "whole")

    # What one process has begun, a cluster goes on with.
    with pytest.raises(KeyboardInterrupt):
        small_build(tmp_path / "both", NoiseSource(fail_at=30), sample=SAMPLE)
    small_build(tmp_path / "both", cluster=cluster, **large)
    assert digests(tmp_path / "both") == digests(tmp_path / "whole")

    with pytest.raises(SourceError, match="full of holes"):
        small_build(tmp_path / "broken", Broken(), cluster=cluster)
    with pytest.raises(Exception, match="a programmer forgot") as raised:  # what is no death is not called so
        small_build(tmp_path / "wrong", Wrong(), cluster=cluster)
    assert not isinstance(raised.value, NeurolabError)
    # Two nodes are no room for what neither has room for.
    with pytest.raises(NeurolabError, match="have 2 CPU, 0 GPU; 2 CPU, 0 GPU; an actor needs 4 CPU"):
        small_build(tmp_path / "wide", threads=4, cluster=cluster)


def test_an_actor_that_dies_each_time_ends_the_build(
    tmp_path: Path, two_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what came before it is gone on from."""
    monkeypatch.setattr(cluster_module, "RETRIES", 1)
    monkeypatch.setattr(cluster_module, "GROUPS_OF_RUN", (2, 2))
    monkeypatch.setattr(Deadly, "always", True)
    small_build(tmp_path / "whole", sample=SAMPLE)
    source = Deadly(tmp_path / "notes", record=9)
    source.folder.mkdir()
    cluster, large = Cluster(two_nodes.address), {"sample": SAMPLE, "workers": 1}
    with pytest.raises(NeurolabError, match=r"died 2 times over the same images.* at or behind batch \d of"):
        small_build(tmp_path / "ray", source, cluster=cluster, **large)
    log = tmp_path / "log"
    small_build(tmp_path / "ray", NoiseSource(log), sample=SAMPLE)
    assert digests(tmp_path / "ray") == digests(tmp_path / "whole")
    assert "first/0" not in log.read_text().splitlines()


def test_tokens_on_a_cluster(tmp_path: Path, two_nodes: Any) -> None:
    """The sample of 100 tokens is in the first group: no more of them is mined before the edges are known."""
    settings: dict[str, Any] = {"model": merging(), "sites": ["early", "late"], "reduction": "token"}
    settings |= {"sample": 100, "coactivation": 64}
    small_build(tmp_path / "whole", **settings)
    small_build(tmp_path / "ray", cluster=Cluster(two_nodes.address), **settings)
    assert digests(tmp_path / "ray") == digests(tmp_path / "whole")


def test_actors_get_a_share_of_the_groups_at_once() -> None:
    for groups, actors, expected in ((20_000, 16, 156), (20_000, 1, 256), (50, 2, 16)):
        every = list(spans([Shard("one", groups * 8)], {}, 8, 16))
        assert _groups_of_run(every, actors) == expected


def test_what_is_mined_first_is_the_sample() -> None:
    task = Task(NoiseSource(), ImageTransform((16, 16), "shortest", "bicubic", None), 8, Kept(sample=100), 0)
    for per_image, groups in (({}, 9), ({"early": 16, "late": 4}, 4), ({"early": 16}, 1)):
        assert len(_first(task.source.shards(), MiningState({}, per_image=per_image), task)) == groups


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NeurolabError, match=r"pip install 'neurolab\[ray\]'"):
        require_ray()
