"""OpenAI's archives are read by an unpickler that can make tensors and nothing else."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurolab.errors import UnknownModelError
from neurolab.models.checkpoints import read_state_dict
from neurolab.models.torchscript import is_torchscript, read_torchscript
from neurolab.models.zoo import Model


class Small(nn.Module):
    """Layers, a buffer, views into a shared storage, plain attributes."""

    transposed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half()
        self.attn = nn.MultiheadAttention(8, 2)
        self.register_buffer("transposed", torch.arange(12.0).reshape(3, 4).t())
        self.register_buffer("part", torch.arange(10)[3:7])
        self.sizes = [1, 2, 3]
        self.label = "small"

    def forward(self, x: Tensor) -> Tensor:
        return x + self.transposed.sum()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "small.pt"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Small().eval(), torch.rand(1)).save(str(path))
    return path


def test_the_tensors_are_those_that_torch_reads(archive: Path) -> None:
    theirs = torch.jit.load(str(archive)).state_dict()
    ours = read_torchscript(archive)
    assert set(theirs) <= set(ours)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


def test_a_traced_clip_is_read_whole(tiny_vit: Model, tmp_path: Path) -> None:
    """As OpenAI made its archives: traced, with masks and other constants that belong to no state dict."""
    image = torch.rand(1, 3, *tiny_vit.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(tiny_vit.module, {"encode_image": image})
    traced.save(str(tmp_path / "clip.pt"))
    state = read_state_dict(tmp_path / "clip.pt")
    for name, value in tiny_vit.module.state_dict().items():
        torch.testing.assert_close(state[name], value)


def test_only_torchscript_is_taken_for_torchscript(archive: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("no zip")
    assert is_torchscript(archive)
    assert not is_torchscript(tmp_path / "state.pt") and not is_torchscript(tmp_path / "text.pt")


def forged(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", data)
        file.writestr("x/constants.pkl", pickle.dumps(()))
        file.writestr("x/data/0", torch.zeros(4).numpy().tobytes())
    return path


class Call:
    """Pickles as a call of a function by name."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def test_an_archive_that_would_run_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    bomb = pickle.dumps(Call(Path.touch, target), protocol=2)
    pickle.loads(bomb)
    assert target.exists()  # the wrong variant: it runs
    target.unlink()
    with pytest.raises(UnknownModelError, match="could run code"):
        read_state_dict(forged(tmp_path / "bomb.pt", bomb))
    assert not target.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "print"])
def test_no_name_outside_the_list_is_found(tmp_path: Path, name: str) -> None:
    data = b"c__builtin__\n" + name.encode() + b"\n."
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        read_torchscript(forged(tmp_path / "x.pt", data))


class Persistent(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value and value[0] == "storage" else None


def described(path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    """An archive with one tensor, made of the four zeros of data/0 as described."""
    stream = io.BytesIO()
    storage = ("storage", torch.FloatStorage, "0", "cpu", 4)
    Persistent(stream, protocol=2).dump(Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride))
    return forged(path, stream.getvalue().replace(b"ctorch.storage\n", b"ctorch\n"))


def test_a_tensor_is_made_as_described(tmp_path: Path) -> None:
    found = read_torchscript(described(tmp_path / "x.pt", 1, (3, 1), (1, 1)))
    assert torch.equal(found[""], torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (10**12,), (0,)),
        (3, (2,), (-1,)),
        (0, (2,), (1, 1)),
    ],
)
def test_tensors_keep_within_their_data(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"impossible|beyond|argument"):
        read_torchscript(described(tmp_path / "x.pt", offset, size, stride))


@pytest.mark.parametrize("data", [b"", b".", b"garbage", pickle.dumps([1] * 10)[:-3]])
def test_damage_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnknownModelError, match=r"x\.pt"):
        read_state_dict(forged(tmp_path / "x.pt", data))
