"""Arrays come back as they were, are read where they lie, and are never unpickled."""

from __future__ import annotations

import mmap
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from neurolab.atlas.writing import ALIGNMENT, read_npz, write_npz
from neurolab.errors import AtlasError

DTYPES = st.one_of(
    nps.boolean_dtypes(),
    nps.integer_dtypes(endianness="?"),
    nps.unsigned_integer_dtypes(endianness="?"),
    nps.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    nps.complex_number_dtypes(),
    nps.unicode_string_dtypes(min_len=1, max_len=4),
    nps.byte_string_dtypes(min_len=1, max_len=4),
)
SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def owner(array: np.ndarray) -> Any:
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text("abc_é/. ", min_size=1, max_size=8), DTYPES.flatmap(lambda d: nps.arrays(d, SHAPES))
    )
)
def test_round_trip_as_numpy_reads_it(arrays: dict[str, np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        write_npz(path, **arrays)
        read = read_npz(path)
        with np.load(path, allow_pickle=False) as oracle:
            assert sorted(read) == sorted(arrays) == sorted(oracle.files)
            for name, array in arrays.items():
                assert read[name].dtype == array.dtype == oracle[name].dtype
                assert read[name].shape == array.shape == oracle[name].shape
                assert read[name].tobytes() == array.tobytes() == oracle[name].tobytes()


@settings(max_examples=30, deadline=None)
@given(DTYPES.flatmap(lambda d: nps.arrays(d, nps.array_shapes(max_dims=3, max_side=4))))
def test_what_numpy_saved_is_read_too(array: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "a.npz", plain=array, fortran=np.asfortranarray(array), view=array[::-1])
        read = read_npz(Path(folder) / "a.npz")
    assert read["plain"].tobytes() == read["fortran"].tobytes() == array.tobytes()
    assert read["view"].tobytes() == array[::-1].tobytes()


def test_data_is_aligned_and_mapped_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    arrays = {"x" * n: np.arange(n * 7, dtype=np.float32) for n in range(1, 40)}
    write_npz(path, **arrays)
    start = np.memmap(path, np.uint8, "r")
    for array in read_npz(path).values():
        assert isinstance(owner(array), mmap.mmap)
        assert (
            array.ctypes.data % ALIGNMENT == 0
        )  # a mapping starts at a page, so the place in the file is aligned
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert start.size < sum(a.nbytes for a in arrays.values()) + 39 * 1000


def test_a_mapped_array_shows_the_file_and_not_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_npz(path, a=np.zeros(1000, np.uint8))
    array = read_npz(path)["a"]
    place = path.read_bytes().index(bytes(1000))
    with open(path, "r+b") as file:
        file.seek(place + 10)
        file.write(b"\x07")
    assert array[10] == 7


def test_a_replaced_file_leaves_open_arrays_alone(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_npz(path, a=np.arange(5))
    before = read_npz(path)["a"]
    write_npz(path, a=np.arange(5) + 100)
    assert before.tolist() == [0, 1, 2, 3, 4]
    assert read_npz(path)["a"].tolist() == [100, 101, 102, 103, 104]


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50, 7)), rng.integers(0, 9, 3)
    write_npz(tmp_path / "1.npz", a=a, b=b)
    write_npz(
        tmp_path / "2.npz", b=b.copy(), a=np.asfortranarray(a)
    )  # order of names and of memory do not count
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_arrays_larger_than_one_piece_are_written_whole(tmp_path: Path) -> None:
    array = np.arange(5 << 20, dtype=np.uint32).reshape(5, -1)
    write_npz(tmp_path / "a.npz", a=array)
    assert np.array_equal(read_npz(tmp_path / "a.npz")["a"], array)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("something was pickled")


@pytest.mark.parametrize(
    "array", [np.array([Trap()], object), np.zeros(2, [("a", "f4")]), np.zeros(2, [("a", "O")])]
)
def test_objects_and_structures_are_not_written(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="plain numbers"):
        write_npz(tmp_path / "a.npz", a=array)
    assert list(tmp_path.iterdir()) == []


def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return ran.touch, ()

    np.savez(tmp_path / "a.npz", a=np.array([Payload()], object))
    with pytest.raises(AtlasError, match="holds pickled objects"):
        read_npz(tmp_path / "a.npz")
    assert not ran.exists()


def test_compressed_arrays_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100))
    with pytest.raises(AtlasError, match="is compressed or encrypted"):
        read_npz(tmp_path / "a.npz")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(AtlasError, match="missing"):
        read_npz(path)
    write_npz(path, a=np.arange(1000))
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"PK",
        whole[: len(whole) // 2],
        bytes(len(whole)),
        whole.replace(b"(1000,)", b"(1001,)"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(AtlasError, match=r"a\.npz"):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"not an array at all")
    with pytest.raises(AtlasError, match="cannot be read"):
        read_npz(path)


def test_a_shape_that_overflows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, a=np.zeros((4, 1000)))
    header = path.read_bytes()
    path.write_bytes(header.replace(b"(4, 1000)", b"(4, -100)"))
    with pytest.raises(AtlasError):
        read_npz(path)
