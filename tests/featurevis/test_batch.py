from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Constant, Direction, Objective, Unit, neuron

RNG = torch.Generator().manual_seed(0)
ACTS = {
    "map": torch.randn(6, 5, 3, 4, generator=RNG),
    "tokens": torch.randn(6, 7, 5, generator=RNG),
    "vector": torch.randn(6, 5, generator=RNG),
}
VECTORS = torch.randn(6, 5, generator=RNG)


def one_by_one(members: list[Objective]) -> torch.Tensor:
    return torch.stack([m({k: v[i : i + 1] for k, v in ACTS.items()})[0] for i, m in enumerate(members)])


MIXED: list[Objective] = [
    Unit("map", 3),
    Direction("tokens", VECTORS[0], power=2),
    Unit("map", 0),
    Unit("map", 1, "max") - 2 * Unit("vector", 4),
    neuron("map", 2, (2, 1)),
    Unit("map", 2, "max") - 3 * Unit("vector", 0),
]


@pytest.mark.parametrize(
    ("members", "groups"),
    [
        ([Unit("map", i) for i in (4, 0, 0, 2, 1, 3)], 1),
        ([Unit("tokens", i) for i in (4, 0, 0, 2, 1, 3)], 1),
        ([Unit("vector", i) for i in (4, 0, 0, 2, 1, 3)], 1),
        ([Direction(s, v, power=1.5) for s in ("map",) for v in VECTORS], 1),
        ([Direction(s, v) for s in ("tokens",) for v in VECTORS], 1),
        ([i * Unit("map", 5 - i) + 1 for i in range(1, 6)] + [2 * Unit("map", 2) + 7], 1),
        (MIXED, 4),
        (MIXED[::-1], 4),
    ],
    ids=["units", "tokens", "vectors", "directions", "directions of tokens", "sums", "mixed", "reversed"],
)
def test_a_batch_has_the_values_of_its_items(members: list[Objective], groups: int) -> None:
    batch = BatchObjective(members)
    assert len(batch.groups) == groups
    torch.testing.assert_close(batch(ACTS), one_by_one(members))


def test_a_batch_gives_each_item_its_own_gradient() -> None:
    acts = {site: value.clone().requires_grad_() for site, value in ACTS.items()}
    BatchObjective(MIXED)(acts).sum().backward()
    for i, member in enumerate(MIXED):
        alone = {site: value[i : i + 1].detach().requires_grad_() for site, value in acts.items()}
        member(alone).sum().backward()
        for site in member.sites:
            torch.testing.assert_close(acts[site].grad[i : i + 1], alone[site].grad)  # type: ignore[index]


def test_sites_are_all_that_are_read_once_each() -> None:
    assert BatchObjective(MIXED).sites == ("map", "tokens", "vector")


def test_a_number_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="must read a site"):
        BatchObjective([Constant(1.0)])


@given(
    data=st.data(),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
@settings(deadline=None, max_examples=40)
def test_any_batch_of_any_size_and_precision(
    data: st.DataObject, size: tuple[int, int], dtype: torch.dtype
) -> None:
    """Each item's value is its own, in float32, whatever is drawn with it and the network computes in."""
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    kinds: list[Callable[[int], Objective]] = [
        lambda i: Unit("map", i),
        lambda i: Unit("map", i, "max") - 2 * Unit("vector", i),
        lambda i: Direction("map", VECTORS[i], power=2),
        lambda i: neuron("map", i, (size[0] - 1, 0)),
        lambda i: (1 + Unit("vector", i)) * Unit("map", i),
    ]
    picked = data.draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 4)), min_size=1, max_size=7))
    members = [make(unit) for make, unit in picked]
    acts = {
        "map": torch.randn(len(members), 5, *size, generator=random).to(dtype),
        "vector": torch.randn(len(members), 5, generator=random).to(dtype),
    }
    values = BatchObjective(members)(acts)
    alone = [m({k: v[i : i + 1] for k, v in acts.items()})[0] for i, m in enumerate(members)]
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.stack(alone))
