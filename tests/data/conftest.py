"""What tests of sources share: nothing waits for a disk or a server to come back."""

from __future__ import annotations

import pytest

from neurolab.data import patience


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for, and not made."""
    asked: list[float] = []
    monkeypatch.setattr(patience, "sleep", asked.append)
    return asked
