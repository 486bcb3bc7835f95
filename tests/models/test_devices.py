from __future__ import annotations

import pytest
import torch

import neurolab
from neurolab.errors import DeviceError
from neurolab.models.devices import find_device
from neurolab.models.zoo import Model


def test_devices_that_are_there() -> None:
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["foo", "", "cuda:77", "cpu:x", "hpu"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(name: str, tiny_clip: Model) -> None:
    for ask in (find_device, tiny_clip.to, lambda device: neurolab.load_model("pocket", device=device)):
        with pytest.raises(
            DeviceError, match=rf"nothing can be computed on '{name}' \(.+\): use cpu"
        ) as said:
            ask(name)
        assert "\n" not in str(said.value)
