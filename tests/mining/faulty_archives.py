"""Tar shards spoiled in one way each: more FAULTS, as in `faulty_sources`."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from neurolab.data.sources import Record
from tests.data.making import encoded, samples, write_tar
from tests.mining.faulty_sources import Fault, Mined, Refused, register_in

FAULTS: dict[str, Fault] = {}
fault = register_in(FAULTS)

END = "x/(end of the shard)"


def sample(number: int) -> Record:
    """What `samples` holds under this number."""
    captions = (f"picture {number}", f"number {number}")
    return Record(f"{number:04d}", encoded(number), captions, {"label": str(number % 3)})


def whole(place: Path, count: int = 4) -> tuple[Path, bytearray]:
    path = write_tar(place / "x.tar", samples(count))
    return path, bytearray(path.read_bytes())


@fault("a tar cut inside a member")
def _(place: Path) -> Mined:
    path, data = whole(place)
    path.write_bytes(data[: data.index(b"0002.jpg") + 512 + 100])
    return Mined(path, [sample(0), sample(1)], {END: "broken off after 2 samples: .*inside a member"})


@fault("a tar without its end")
def _(place: Path) -> Mined:
    path, data = whole(place)
    path.write_bytes(data[: data.index(b"0003.jpg")])
    reason = "after 3 samples: .*without an end-of-archive marker"
    return Mined(path, [sample(0), sample(1), sample(2)], {END: reason})


@fault("a tar with a broken header")
def _(place: Path) -> Mined:
    path, data = whole(place)
    data[data.index(b"0001.jpg") + 3] ^= 0xFF
    path.write_bytes(data)
    return Mined(path, [sample(0)], {END: "after 1 samples: damaged header"})


@fault("a compressed tar cut in the middle")
def _(place: Path) -> Mined:
    _, data = whole(place)
    packed = gzip.compress(data[: data.index(b"0002.jpg") + 600], mtime=0)
    (place / "x.tar").unlink()
    (place / "x.tar.gz").write_bytes(packed[:-8])  # without the check of its length, too
    return Mined(place / "x.tar.gz", [sample(0), sample(1)], {END: "broken off after 2 samples"})


@fault("a compressed tar named .tar")
def _(place: Path) -> Refused:
    path, data = whole(place)
    path.write_bytes(gzip.compress(data))
    return Refused(path, "has no samples: ")


@fault("a tar without members")
def _(place: Path) -> Refused:
    return Refused(write_tar(place / "x.tar", []), "has no samples: it has no members")


@fault("a tar of 0 bytes")
def _(place: Path) -> Refused:
    (place / "x.tar").write_bytes(b"")
    return Refused(place, "has no samples: ")


@fault("a web page named .tar")
def _(place: Path) -> Refused:
    (place / "x.tar").write_bytes(b"<html>404 Not Found</html>" * 100)
    return Refused(place / "x.tar", "has no samples: ")


@fault("one shard of several that is rubbish")
def _(place: Path) -> Mined:
    write_tar(place / "w.tar", samples(2))
    (place / "x.tar").write_bytes(b"rubbish" * 300)
    write_tar(place / "y.tar", samples(1))
    records = [replace(sample(0), key="w/0000"), replace(sample(1), key="w/0001")]
    return Mined(place, [*records, replace(sample(0), key="y/0000")], {END: "broken off after 0 samples"})


@fault("keys that come again")
def _(place: Path) -> Mined:
    members = [("k.jpg", encoded(1)), ("k.jpg", encoded(2)), ("m.jpg", encoded(3)), ("k.jpg", encoded(4))]
    records = [Record("k", encoded(1)), Record("m", encoded(3)), Record("k~2", encoded(4))]
    return Mined(write_tar(place / "x.tar", members), records, notes={"k": "duplicate"})


@fault("a sample without an image")
def _(place: Path) -> Mined:
    members = [*samples(1), ("0001.json", b"{}"), ("0001.mp3", b""), *samples(1, 2)]
    path = write_tar(place / "x.tar", members)
    return Mined(path, [sample(0), sample(2)], {"0001": "no image .its members: json, mp3"})


@fault("members that are links and devices")
def _(place: Path) -> Mined:
    path = place / "x.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("k.jpg")
        info.size = len(encoded(1))
        archive.addfile(info, io.BytesIO(encoded(1)))
    return Mined(path, [Record("k", encoded(1))])


def members(names: dict[str, str], place: Path) -> Mined:
    """Whole images under names that are no good; `names` gives the key of each."""
    path = write_tar(place / "x.tar", [(name, encoded(i)) for i, name in enumerate(names)])
    return Mined(path, [Record(key, encoded(i)) for i, key in enumerate(names.values())])


FAULTS |= {
    "members that lead out of the folder": partial(
        members, {"../../etc/x.jpg": "../../etc/x", "/abs/x.jpg": "/abs/x", "./here.jpg": "here"}
    ),
    "members of long names and several lines": partial(
        members, {f"{'y' * 300}.jpg": "y" * 300, "a\nb.jpg": "a\nb", "\u202egpj.jpg": "\u202egpj"}
    ),
    "members whose names are no UTF-8": partial(members, {"caf\udce9.jpg": "caf\\xe9"}),
}
