"""Builds whose disk goes away, and shards behind URLs: what was finished is kept and not fetched again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neurolab.atlas import Atlas
from neurolab.data import patience
from neurolab.data.folder import FolderSource
from neurolab.data.sources import Record, Shard, open_source
from neurolab.errors import SourceError
from neurolab.mining.job import Job
from neurolab.mining.passes import Computed
from tests.data.making import encoded, samples, write_tar
from tests.data.serving import serving
from tests.mining.small_build import small_build, small_model


class Unplugged(FolderSource):
    """A folder that is renamed before its record of a number is read."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder)
        self.at = at

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number, record in enumerate(super().read(shard, start, stop)):
            if number == self.at:
                self.folder.rename(self.folder.with_name("unplugged"))
            yield record


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(patience, "DISK_WAITS", (0.0,))
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(40):
        (place / f"{number:02d}.jpg").write_bytes(encoded(number))
    return place


def files(atlas: Path) -> dict[str, bytes]:
    return {str(p.relative_to(atlas)): p.read_bytes() for p in atlas.rglob("*") if p.is_file()}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_is_unplugged_in_mid_build(folder: Path, tmp_path: Path, workers: int) -> None:
    model = small_model()
    whole = small_build(tmp_path / "whole", FolderSource(folder), model, batch_size=4)
    with pytest.raises(SourceError, match=r"\.jpg is gone, .*the same command again"):
        small_build(tmp_path / "atlas", Unplugged(folder, 20), model, batch_size=4, workers=workers)
    folder.with_name("unplugged").rename(folder)
    atlas = small_build(tmp_path / "atlas", FolderSource(folder), model, batch_size=4)
    assert len(atlas) == 40
    assert files(atlas.path) == files(whole.path)


def test_an_image_that_goes_away_in_mid_build_ends_it(folder: Path, tmp_path: Path) -> None:
    source = FolderSource(folder)
    source.content_hash()
    image = folder / "09.jpg"
    data = image.read_bytes()
    image.unlink()
    with pytest.raises(SourceError, match=r"09\.jpg is gone"):
        small_build(tmp_path / "atlas", source, batch_size=4)
    image.write_bytes(data)
    assert len(small_build(tmp_path / "atlas", FolderSource(folder), batch_size=4)) == 40


@pytest.mark.parametrize("stop", [4, 5])
def test_a_limit_on_shards_behind_urls_fetches_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    shards = {f"/{i}.tar": write_tar(tmp_path / f"{i}.tar", samples(8, 8 * i)).read_bytes() for i in range(4)}
    real, taken = Job.take, []

    def take(job: Job, ready: Computed) -> None:
        if len(taken) == stop:
            raise KeyboardInterrupt
        taken.append(ready)
        real(job, ready)

    with serving(shards) as server:

        def build() -> Atlas:
            server.asked.clear()
            return small_build(tmp_path / "atlas", open_source(spec), batch_size=4, limit=26)

        def fetched() -> list[str]:
            return [asked.removeprefix("GET /") for asked in server.asked if asked.startswith("GET")]

        spec = f"{server.address}/{{0..3}}.tar"
        monkeypatch.setattr(Job, "take", take)
        with pytest.raises(KeyboardInterrupt):
            build()
        assert fetched() == ["0.tar", "1.tar", "2.tar"]
        monkeypatch.setattr(Job, "take", real)
        assert len(build()) == 26
        # Of a shard that ends with a batch, only reading on tells that it does.
        assert fetched() == ["1.tar", "2.tar", "3.tar"][stop - 4 :]
        assert len(build()) == 26
        assert fetched() == []
