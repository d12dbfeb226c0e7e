"""Failure: what was trained is not what is served, or two trainings on one log give two trunks.

Required of every kind: training is deterministic, what the log and the features can teach is learned while
ids that the log hardly holds are not; inference equals the library that trained.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import torch

from models.deep.fits import network as network_fit
from models.deep.fits import trees as trees_fit
from models.deep.fits.network import choose_encoder, standardise
from models.deep.fitted import Fitted, Options, export
from models.deep.kinds.trees import inputs
from models.deep.load import load_trunk
from models.deep.samples import MIN_COUNT, Samples
from models.deep.trunk import Trunk
from tests.unit.models.conftest import KINDS

N = 3000
LONG = {"network": 8, "trees": 200}
NAMES = ("item_id.rate", "session.step", "constant")
SMALL = Options(hidden_size=8, epochs=3)


def log(n: int = N, seed: int = 0, span_ms: int = 3 * 86_400_000, features: bool = False) -> Samples:
    """Clicks depend on item, position and the first feature; a third of the item ids is seen only once."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 20, n)
    position = rng.integers(0, 10, n)
    rates = rng.normal(5.0, 2.0, n).astype(np.float32)
    logits = -2.0 + 1.5 * np.sin(item) - 0.2 * position + (features * 1.0) * (rates - 5.0)
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
    clicked = rng.random(n) < 1 / (1 + np.exp(-logits))
    if not features:
        return Samples(columns, clicked)
    columns["context"] = [None] * n
    given = np.stack([rates, rng.random(n), np.full(n, 7.0)], axis=1).astype(np.float32)
    return Samples(columns, clicked, given, NAMES, "of-the-plan")


def fit(kind: str, samples: Samples, options: Options = SMALL) -> Fitted:
    fitted: Fitted = import_module(f"models.deep.fits.{kind}").fit(samples, options)
    return fitted


def score(trunk: Trunk, samples: Samples) -> Any:
    n = len(samples)
    given = samples.features if trunk.feature_names else None
    return trunk.frozen_logit(trunk.hidden(samples.columns, n, given))


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """One of every kind, on a log with features."""
    return fit(request.param, log(features=True), Options(hidden_size=8, epochs=LONG[request.param]))


def test_it_learns_what_the_log_and_the_features_hold(fitted: Fitted, tmp_path: Path) -> None:
    assert fitted.validation_auc is not None and fitted.validation_auc > 0.8
    assert not fitted.constant
    trunk = load_trunk_of(fitted, tmp_path)
    fresh = log(2000, seed=5, features=True)
    found = score(trunk, fresh)
    entropy = -np.log(fresh.base_rate) * fresh.base_rate - np.log1p(-fresh.base_rate) * (1 - fresh.base_rate)
    assert np.mean(np.logaddexp(0.0, found) - fresh.clicked * found) < 0.9 * entropy
    assert abs(1 / (1 + np.exp(-found))).mean() == pytest.approx(fresh.base_rate, rel=0.15)


def load_trunk_of(fitted: Fitted, folder: Path) -> Trunk:
    export(fitted, folder)
    return load_trunk(folder)


def test_the_manifest_says_what_it_reads(fitted: Fitted, tmp_path: Path) -> None:
    samples = log(features=True)
    trunk = load_trunk_of(fitted, tmp_path)
    trunk.check_features(NAMES, "of-the-plan")
    assert (trunk.kind, trunk.feature_names) == (fitted.kind, NAMES)
    normal = trunk.normalise(samples.features)
    np.testing.assert_allclose(normal.mean(axis=0), 0.0, atol=1e-3)
    # A feature that is constant while training is left as it is, and is not blown up when it moves.
    np.testing.assert_allclose(normal.std(axis=0), [1.0, 1.0, 0.0], atol=1e-3)


def test_hidden_units_have_mean_zero(fitted: Fitted, tmp_path: Path) -> None:
    """The bias alone then moves the level."""
    samples = log(features=True)
    hidden = load_trunk_of(fitted, tmp_path).hidden(samples.columns, N, samples.features)
    np.testing.assert_allclose(hidden.mean(axis=0), 0.0, atol=1e-3)
    assert (hidden.std(axis=0) > 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_trunk(kind: str, tmp_path: Path) -> None:
    samples = log(600, features=True)
    hashes = [
        export(fit(kind, samples, Options(hidden_size=4, epochs=3, seed=seed)), tmp_path).trunk_hash
        for seed in (3, 3, 4)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_without_anything_that_varies_still_gives_a_trunk(kind: str, tmp_path: Path) -> None:
    n = 200
    columns: dict[str, Any] = {name: [""] * n for name in ("user_id", "item_id", "category_id", "shop_id")}
    columns |= {
        "position": np.zeros(n, int),
        "price": np.zeros(n),
        "event_time": np.full(n, 1_700_000_000_000),
    }
    samples = Samples(columns, np.arange(n) % 10 == 0)
    found = fit(kind, samples)
    assert found.constant
    rate = 1 / (1 + np.exp(-score(load_trunk_of(found, tmp_path), samples)))
    np.testing.assert_allclose(rate, 0.1, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_log_of_a_few_rows_gives_a_trunk(kind: str, n: int, tmp_path: Path) -> None:
    samples = log(n, features=True)
    trunk = load_trunk_of(fit(kind, samples, Options(epochs=1)), tmp_path)
    assert np.isfinite(score(trunk, samples)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rare_clicks_do_not_switch_a_trunk_off(kind: str, tmp_path: Path) -> None:
    """Failure: of 9,000 impressions with 50 clicks (the Open Bandit log) every unit was dead for ever."""
    rng = np.random.default_rng(1)
    n = 9000
    samples = log(n, features=True)
    odds = np.exp(-6.0 + 1.5 * (samples.features[:, 0] - 5.0) / 2.0)
    samples = Samples(samples.columns, rng.random(n) < odds / (1 + odds), samples.features, NAMES, "h")
    assert 20 < samples.clicked.sum() < 120
    found = fit(kind, samples, Options(epochs=LONG[kind]))
    trunk = load_trunk_of(found, tmp_path)
    hidden = trunk.hidden(samples.columns, n, samples.features)
    assert (hidden.std(axis=0) > 1e-4).sum() >= trunk.hidden_size / 2
    assert np.corrcoef(trunk.frozen_logit(hidden), np.log(odds))[0, 1] > 0.4


def test_numpy_equals_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(network_fit, "standardise", lambda *given: (kept.append(given), standardise(*given)))
    for samples in (log(), log(features=True)):
        found = fit("network", samples)
        trunk = load_trunk_of(found, tmp_path)
        network, index, dense = kept.pop()
        with torch.no_grad():
            wanted, logits = network.hidden(index, dense).numpy(), network(index, dense).numpy()
        hidden = trunk.hidden(samples.columns, N, samples.features)
        np.testing.assert_allclose(hidden, wanted, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(trunk.frozen_logit(hidden), logits, atol=2e-5, rtol=1e-5)


def test_trees_equal_lightgbm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[lgb.Booster] = []
    train = lgb.train
    monkeypatch.setattr(trees_fit.lgb, "train", lambda *a, **k: kept.append(train(*a, **k)) or kept[-1])
    samples = log(features=True)
    found = fit("trees", samples, Options(epochs=200))
    trunk = load_trunk_of(found, tmp_path)
    fresh = log(2000, seed=9, features=True)
    # Where rows fall exactly on a threshold, too.
    fresh.features[:1000] = samples.features[:1000]
    read = inputs(fresh.columns, len(fresh), fresh.features, trunk.fields)
    wanted = kept[-1].predict(read, raw_score=True)
    assert kept[-1].num_trees() == found.epochs > 20
    np.testing.assert_allclose(score(trunk, fresh), wanted, atol=1e-5, rtol=0.0)
    np.testing.assert_array_equal(trunk.head_weight, 1.0)


def test_a_unit_that_hardly_varies_stays_small() -> None:
    """Failure: a unit of 549 +- 1 is given to the last layer, and one click moves every score by its square.

    Mechanism: one unit is almost constant, and its noise is the head's largest input. Required: all units
    stay of order one, the almost constant one well below it, and the log odds are those of before.
    """
    run = network_fit._Run(choose_encoder(log()), log(), SMALL).train(share=0.2)
    network = run.network
    with torch.no_grad():
        network.layer_2.weight[3].mul_(0.01)
        network.layer_2.bias[3] = 50.0
        before = network(run.index, run.dense)
        standardise(network, run.index, run.dense)
        hidden, after = network.hidden(run.index, run.dense), network(run.index, run.dense)
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-3)
    assert float(hidden.mean(dim=0).abs().max()) < 0.01 and float(hidden.std(dim=0).max()) < 1.1
    assert 0.0 < float(hidden[:, 3].std()) < 0.1


def test_training_leaves_torchs_settings_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    fit("network", log(300), Options(hidden_size=4, epochs=1))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fields_that_cannot_teach_are_left_out() -> None:
    assert choose_encoder(log()).reads.fields == ["item_id", "context.device", "position", "hour", "price"]
    assert "hour" not in choose_encoder(log(span_ms=3_600_000)).reads.fields


def test_rare_ids_have_no_row() -> None:
    assert len(choose_encoder(log()).ids["item_id"]) == 20
    assert MIN_COUNT > 1


def test_features_that_do_not_fit_their_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3000, 3\) for 3000 impressions and 1 names"):
        Samples(log().columns, log().clicked, log(features=True).features, ("one",))
    with pytest.raises(ValueError, match="finite"):
        Samples({}, np.ones(1, dtype=bool), np.full((1, 1), np.nan, dtype=np.float32), ("one",))
