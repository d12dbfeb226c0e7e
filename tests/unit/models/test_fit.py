"""Failure: what was trained is not what is served, or two trainings on one log give two trunks.

Required: numpy inference equals torch to 1e-5, training is deterministic, and what the log can teach is
learned while ids that it hardly holds are not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.deep.fit import Fitted, Options, _standardise, export, fit
from models.deep.manifest import Training
from models.deep.samples import MIN_COUNT, Samples, choose_encoder
from models.deep.trunk import Trunk

N = 6000
TRAINING = Training(
    log="synthetic",
    rows=N,
    clicks=0,
    first_event_time=0,
    last_event_time=0,
    label_window_s=0.0,
    validation_rows=0,
    validation_auc=None,
    validation_log_loss=0.0,
    epochs=0,
    seed=0,
    torch_version="",
)


def log(n: int = N, seed: int = 0, span_ms: int = 3 * 86_400_000) -> Samples:
    """Clicks depend on item and position; a third of the item ids is seen only once."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 20, n)
    position = rng.integers(0, 10, n)
    logits = -2.0 + 1.5 * np.sin(item) - 0.2 * position
    once = rng.random(n) < 0.3
    columns: dict[str, Any] = {
        "user_id": [f"user-{k}" for k in rng.integers(0, 10**9, n)],
        "item_id": [
            f"once-{k}" if rare else f"item-{i}" for k, (i, rare) in enumerate(zip(item, once, strict=True))
        ],
        "category_id": [""] * n,
        "shop_id": ["the-only-shop"] * n,
        "position": position,
        "price": rng.lognormal(3.0, 1.0, n),
        "event_time": np.sort(1_700_000_000_000 + rng.integers(0, span_ms, n)),
        "context": [{"device": "phone" if k else "desk", "rare": ""} for k in rng.integers(0, 2, n)],
    }
    return Samples(columns, rng.random(n) < 1 / (1 + np.exp(-logits)))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(log(), Options(hidden_size=8, epochs=6))


def test_numpy_equals_torch(fitted: Fitted, tmp_path: Path) -> None:
    export(fitted, tmp_path, TRAINING)
    trunk = Trunk.load(tmp_path)
    fresh = log(500, seed=7)
    hidden = trunk.hidden(fresh.columns, 500)
    index = torch.from_numpy(fitted.encoder.index(fresh.columns, 500))
    price = torch.from_numpy(fitted.encoder.price(fresh.columns, 500))
    with torch.no_grad():
        wanted = fitted.network.hidden(index, price).numpy()
        logits = fitted.network(index, price).numpy()
    np.testing.assert_allclose(hidden, wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(trunk.frozen_logit(hidden), logits, atol=2e-5, rtol=1e-5)


def test_it_learns_what_the_log_holds(fitted: Fitted) -> None:
    assert fitted.validation_auc is not None and fitted.validation_auc > 0.6
    rate = log().clicked[-fitted.validation_rows :].mean()
    assert fitted.validation_log_loss < -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_hidden_units_have_mean_zero_and_standard_deviation_one(fitted: Fitted, tmp_path: Path) -> None:
    """One prior precision then means the same for every unit of every trunk."""
    export(fitted, tmp_path, TRAINING)
    hidden = Trunk.load(tmp_path).hidden(log().columns, N)
    alive = hidden.std(axis=0) > 1e-6
    assert alive.any()
    np.testing.assert_allclose(hidden.std(axis=0)[alive], 1.0, atol=0.1)
    np.testing.assert_allclose(hidden.mean(axis=0), 0.0, atol=0.1)


def test_a_unit_that_hardly_varies_stays_small() -> None:
    """Failure: a unit of 549 +- 1 is given to the last layer, and one click moves every score by its square.

    Mechanism: one unit is almost constant, and its noise is the head's largest input. Required: all units
    stay of order one, the almost constant one well below it, and the log odds are those of before.
    """
    samples = log()
    network = fit(samples, Options(hidden_size=8, epochs=1)).network
    encoder = choose_encoder(samples)
    index = torch.from_numpy(encoder.index(samples.columns, N))
    price = torch.from_numpy(encoder.price(samples.columns, N))
    with torch.no_grad():
        network.center.zero_()
        network.layer_2.weight[3].mul_(0.01)
        network.layer_2.bias[3] = 50.0
        before = network(index, price)
        _standardise(network, index, price)
        hidden, after = network.hidden(index, price), network(index, price)
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-3)
    assert float(hidden.mean(dim=0).abs().max()) < 0.01 and float(hidden.std(dim=0).max()) < 1.1
    assert 0.0 < float(hidden[:, 3].std()) < 0.1


def test_one_seed_gives_one_trunk(tmp_path: Path) -> None:
    samples = log(1500)
    hashes = [
        export(fit(samples, Options(hidden_size=4, epochs=2, seed=seed)), tmp_path, TRAINING).trunk_hash
        for seed in (3, 3, 4)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_leaves_torchs_settings_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    fit(log(300), Options(hidden_size=4, epochs=1))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fields_that_cannot_teach_are_left_out() -> None:
    assert choose_encoder(log()).fields == ["item_id", "context.device", "position", "hour", "price"]
    assert "hour" not in choose_encoder(log(span_ms=3_600_000)).fields


def test_rare_ids_have_no_row() -> None:
    encoder = choose_encoder(log())
    assert len(encoder.buckets["item_id"]) == 20
    assert MIN_COUNT > 1


def test_a_log_without_any_varying_field_still_gives_a_trunk(tmp_path: Path) -> None:
    n = 200
    columns: dict[str, Any] = {name: [""] * n for name in ("user_id", "item_id", "category_id", "shop_id")}
    columns |= {
        "position": np.zeros(n, int),
        "price": np.zeros(n),
        "event_time": np.full(n, 1_700_000_000_000),
    }
    samples = Samples(columns, np.arange(n) % 10 == 0)
    export(fit(samples, Options(hidden_size=4, epochs=1)), tmp_path, TRAINING)
    trunk = Trunk.load(tmp_path)
    rate = 1 / (1 + np.exp(-trunk.frozen_logit(trunk.hidden(columns, n))))
    np.testing.assert_allclose(rate, 0.1, atol=0.03)
