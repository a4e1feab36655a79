"""One step, against an independent computation; what a record can do to it; what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from counterseal.privacy.dpsgd.dropout import KeyedDropout
from counterseal.privacy.dpsgd.gradients import PrivateGradients
from counterseal.privacy.dpsgd.sampling import PoissonSampler
from counterseal.privacy.errors import MechanismError, PrivacyError, UnsupportedModelError
from counterseal.privacy.grid import Grid
from counterseal.privacy.noise import Bernoulli, DiscreteGaussian, Keystream

NOISE, NORMALISER = 1.3, 6.0


def key(number: int) -> Keystream:
    """A stream that can be repeated: for tests only."""
    return Keystream(number.to_bytes(32, "big"))


def small(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3))


def data(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def entropy(model: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda x, y: functional.cross_entropy(model(x), y, reduction="none")


def private(model: nn.Module, clip_norm: float = 0.7, **changed: Any) -> PrivateGradients:
    values = {"noise_multiplier": NOISE, "normaliser": NORMALISER, "micro_batch": 4} | changed
    return PrivateGradients(model, clip_norm=clip_norm, **values)


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([one.grad.reshape(-1) for one in model.parameters() if one.grad is not None]).numpy()


def step(model: nn.Module, records: tuple[torch.Tensor, ...], stream: Keystream, **changed: Any) -> np.ndarray:
    with private(model, **changed) as gradients:
        gradients.step(entropy(model), records, stream)
    return flat(model)


def by_hand(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Each record by itself, in float64, without hooks, without Opacus."""
    double = small().double()
    double.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    rows = []
    for i in range(len(x)):
        loss = functional.cross_entropy(double(x[i : i + 1].double()), y[i : i + 1])
        found = torch.autograd.grad(loss, list(double.parameters()))
        rows.append(torch.cat([one.reshape(-1) for one in found]).numpy())
    return np.array(rows)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_step_equals_an_independent_computation(count: int) -> None:
    """Per record in float64: clip, round with the same words, sum as Python integers, add the same noise."""
    model, (x, y) = small(), data(count)
    found = step(model, (x, y), key(1))
    rows = by_hand(model, x, y)
    dimensions = rows.shape[1]
    bound = max(4096, math.ceil(16 * math.sqrt(dimensions)))
    grid, stream = Grid(0.7, dimensions), key(1)
    assert grid.bound == bound
    total = [0] * dimensions
    for row in rows:
        integers = grid.quantise(row[None], stream)[0]
        wanted = row * min(1.0, 0.7 / np.linalg.norm(row)) * bound / 0.7
        assert np.abs(integers - wanted).max() < 1 + 0.002 * bound  # the grid keeps a margin of 0.1 % for its rounding
        total = [a + int(b) for a, b in zip(total, integers, strict=True)]
    noise = DiscreteGaussian(NOISE * bound).sample(dimensions, stream)
    expected = np.array([(a + int(b)) * (0.7 / bound) / NORMALISER for a, b in zip(total, noise, strict=True)])
    units = np.abs(found - expected) * NORMALISER * bound / 0.7
    assert units.max() < count + 0.01  # float32 against float64 may move one rounding of one record by one unit
    assert (units > 0.5).mean() < 0.1


def test_the_norm_of_every_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Huge gradients: what is summed is integers of norm at most K."""
    seen: list[np.ndarray] = []
    blocks = Grid._blocks

    def spy(self: Grid, rows: Any, stream: Keystream) -> Any:
        for block in blocks(self, rows, stream):
            seen.append(block.astype(np.int64))
            yield block

    monkeypatch.setattr(Grid, "_blocks", spy)
    model, (x, y) = small(), data(6)
    step(model, (x * 1e30, y), key(2))
    integers = np.concatenate(seen)
    assert integers.dtype == np.int64 and len(integers) == 6
    norms = [sum(int(one) ** 2 for one in row) for row in integers]
    assert max(norms) <= 4096**2
    assert max(norms) > 0.99 * 4096**2


def test_the_realised_batch_is_no_divisor() -> None:
    """Twice the records give twice the sum: only the public number divides."""
    model, (x, y) = small(), data(5)
    silent = {"noise_multiplier": 16 / 4096, "clip_norm": 50.0}  # the least noise there is
    once = step(model, (x, y), key(3), **silent)
    twice = step(model, (x.repeat(2, 1), y.repeat(2)), key(3), **silent)
    assert np.allclose(twice, 2 * once, atol=20 * 16 * 50 / 4096 / NORMALISER)
    assert np.linalg.norm(twice) == pytest.approx(2 * np.linalg.norm(once), rel=0.2)


def test_an_empty_batch_is_noise_alone() -> None:
    model, (x, y) = small(), data(3)
    grid = Grid(0.7, 43)
    noise = DiscreteGaussian(NOISE * grid.bound).sample(43, key(4))
    assert np.array_equal(step(model, (x[:0], y[:0]), key(4)), grid.to_float(noise, NORMALISER))


SPOILED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "nan": lambda x, y: x[2].fill_(float("nan")),
    "infinity": lambda x, y: x[2].fill_(float("inf")),
    "a label that is no class": lambda x, y: y[2:3].fill_(99),
    "a negative label": lambda x, y: y[2:3].fill_(-5),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_record_counts_as_zero(name: str) -> None:
    """Whether it spoils its gradient or makes the loss raise: the others count as ever, and nothing is told."""
    model, (x, y) = small(), data(7)
    rows = by_hand(model, x, y)
    SPOILED[name](x, y)
    found = step(model, (x, y), key(5))
    grid, stream = Grid(0.7, 43), key(5)
    rows[2] = 0.0
    integers = grid.quantise(rows, stream)
    expected = grid.to_float(grid.total(integers, DiscreteGaussian(NOISE * grid.bound).sample(43, stream)), NORMALISER)
    assert np.abs(found - expected).max() * NORMALISER / grid.unit < 7.01
    assert (np.abs(found - expected) * NORMALISER / grid.unit > 0.5).mean() < 0.1


def test_all_records_may_be_spoiled() -> None:
    model, (x, y) = small(), data(5)
    labels = step(model, (x, y.clone().fill_(99)), key(6))
    assert np.array_equal(labels, step(model, (torch.full_like(x, float("nan")), y), key(6)))


def test_a_failing_record_leaves_the_bits_of_others_alone() -> None:
    """A micro-batch in which one record raises gives the others the very rows that they have without it."""
    model, (x, y) = small(), data(4)
    bad = y.clone()
    bad[1] = 99
    with private(model) as gradients:
        gradients._dropout.prepare(None)
        good = gradients._micro_batch(entropy(model), (x, y))
        after = gradients._micro_batch(entropy(model), (x, bad))
    assert torch.equal(after[[0, 2, 3]], good[[0, 2, 3]])
    assert not after[1].any()


def test_a_record_is_computed_alike_among_any_others() -> None:
    """In its place in a micro-batch of one size, bit by bit: what others hold and how many there are changes nothing."""
    model, (x, y) = small(), data(4)
    with private(model) as gradients:
        gradients._dropout.prepare(None)
        rows = gradients._micro_batch(entropy(model), (x, y))
        for count in (1, 2, 3):
            assert torch.equal(gradients._micro_batch(entropy(model), (x[:count], y[:count])), rows[:count])
        other = torch.cat([x[:1], 100 * x[1:]])
        assert torch.equal(gradients._micro_batch(entropy(model), (other, y))[0], rows[0])


def test_noise_has_the_promised_size_and_no_bias() -> None:
    """300 steps with fixed keys, so this cannot fail by chance; bounds for fresh keys would be wrong once in 10^6."""
    model, (x, y) = small(), data(5)
    clip = 50.0  # nothing is clipped
    found = np.array([step(model, (x, y), key(100 + i), clip_norm=clip, normaliser=1.0) for i in range(300)])
    wanted = by_hand(model, x, y).sum(axis=0)
    spread = NOISE * clip
    assert np.abs(found.mean(axis=0) - wanted).max() < 6 * spread / math.sqrt(300)
    assert abs((found - wanted).std() / spread - 1) < 0.04


def test_fresh_noise_each_time() -> None:
    model, records = small(), data(5)
    assert not np.array_equal(step(model, records, Keystream()), step(model, records, Keystream()))


def test_a_model_that_never_works_is_told_on_blanks() -> None:
    """Before a record is touched: such an error says nothing about them."""
    model, (x, y) = small(), data(5)
    with private(model) as gradients, pytest.raises(PrivacyError):
        gradients.step(lambda x, y: functional.cross_entropy(model(x), y), (x, y), key(7))
    with private(model) as gradients, pytest.raises(RuntimeError):
        gradients.step(lambda x, y: model(x[:, :3]).sum(dim=1), (x, y), key(7))


def test_nothing_is_left_on_the_model() -> None:
    model, records = small(dropout=0.5).eval(), data(6)
    names = list(model.state_dict())
    gradients = private(model)
    assert list(model.state_dict()) == names
    gradients.step(entropy(model), records, key(8))
    gradients.close()
    gradients.close()
    assert list(model.state_dict()) == names
    for module in model.modules():
        assert not module.training
        assert not (module._forward_hooks or module._backward_hooks or "activations" in vars(module))
    assert all(list(vars(parameter)) == [] for parameter in model.parameters())
    private(model).close()  # hooks can be put on again


def test_frozen_parameters_get_no_gradient() -> None:
    model, records = small(), data(6)
    model[0].requires_grad_(False)  # type: ignore[index]
    with private(model) as gradients:
        gradients.step(entropy(model), records, key(9))
        assert gradients.dimensions == 18
    assert [name for name, one in model.named_parameters() if one.grad is not None] == ["3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"clipping": "ghost"}, "no vector per record"),
        ({"clipping": "per-layer"}, "no clipping called"),
        ({"normaliser": 0.0}, "above 0"),
        ({"noise_multiplier": math.inf}, "finite"),
        ({"micro_batch": 0}, "at least one"),
    ],
)
def test_numbers_without_an_argument_are_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(MechanismError, match=text):
        private(small(), **changed)


def test_refused_layers_leave_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedModelError, match="GroupNorm"):
        private(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_secret_in_a_repr() -> None:
    model = small()
    with private(model) as gradients:
        assert repr(gradients) == "PrivateGradients(43 numbers)"
    assert repr(PoissonSampler(0.1, 12345)) == "PoissonSampler(rate=0.1)"


def test_poisson_batches_come_from_the_stream() -> None:
    sampler = PoissonSampler(0.25, 4000)
    first = sampler.draw(key(10))
    assert np.array_equal(first, sampler.draw(key(10)))
    assert np.array_equal(first, np.flatnonzero(Bernoulli(0.25).mask(4000, key(10))))
    assert abs(len(first) - 1000) < 6 * math.sqrt(4000 * 0.25 * 0.75)
    assert len(PoissonSampler(1.0, 7).draw(key(11))) == 7
    sizes = {len(PoissonSampler(0.01, 20).draw(key(20 + i))) for i in range(50)}
    assert 0 in sizes and len(sizes) > 1


def test_dropout_is_drawn_from_the_stream_and_not_from_torch() -> None:
    model = nn.Sequential(nn.Dropout(0.25))
    dropout = KeyedDropout(model)
    x = torch.ones(100, 100)
    state = torch.random.get_rng_state()
    dropout.prepare(key(12))
    first, second = model(x), model(x)
    dropout.prepare(key(12))
    assert torch.equal(model(x), first) and not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert abs(float((first > 0).float().mean()) - 0.75) < 6 * math.sqrt(0.75 * 0.25 / 10_000)
    dropout.close()
    model.train()
    assert not torch.equal(model(x), x)


def test_dropout_of_everything() -> None:
    model = nn.Sequential(nn.Dropout(1.0))
    dropout = KeyedDropout(model)
    dropout.prepare(key(13))
    assert not model(torch.ones(5)).any()
    dropout.prepare(None)
    assert model(torch.ones(5)).all()
