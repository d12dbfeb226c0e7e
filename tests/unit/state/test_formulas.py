"""Fails when a feature stands in another column than its name says, when an entity without evidence gets
a rate of its own, when counts can give a number that is not finite, or when a row's bytes change meaning.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from state.formulas import (
    BASE_RATE,
    BASE_WEIGHT,
    COUNTS,
    TABLES,
    FloatArray,
    RowFormatError,
    decay,
    feature_names,
    features,
    pack_row,
    unpack_row,
)

from contracts.events import ACTIONS

HALF_LIVES = [60.0, 600.0]
SMOOTHING = 20.0
COUNT = st.floats(0, 1e12)
CLICK, CART, PURCHASE = COUNTS.index("click"), COUNTS.index("cart"), COUNTS.index("purchase")


def zeros(n: int = 1) -> FloatArray:
    return np.zeros((n, len(COUNTS), len(HALF_LIVES)))


def row(tables: dict[str, FloatArray], everything: FloatArray, price: float = 0.0) -> dict[str, float]:
    """Features of one impression by name; tables that are left out hold nothing."""
    counts = {table: tables.get(table, zeros()) for table in TABLES}
    values = features(counts, everything, np.array([price]), SMOOTHING)
    names = feature_names(HALF_LIVES)
    assert values.shape == (1, len(names)) and values.dtype == np.float32
    return dict(zip(names, values[0].tolist(), strict=True))


def smoothed(hits: float, trials: float, rate: float, weight: float) -> float:
    return (hits + weight * rate) / (trials + weight)


def test_actions_of_the_event_contract_are_the_counts_after_impression() -> None:
    assert COUNTS[0] == "impression"
    assert COUNTS[1:] == ACTIONS


def test_names_are_distinct_and_as_many_as_columns() -> None:
    for half_lives in ([60.0], [0.5, 60.0], [60.0, 600.0, 3600.0]):
        names = feature_names(half_lives)
        counts = np.zeros((3, len(COUNTS), len(half_lives)))
        values = features(dict.fromkeys(TABLES, counts), counts, np.zeros(3), SMOOTHING)
        assert values.shape == (3, len(names))
        assert len(set(names)) == len(names)


def test_without_any_evidence_every_feature_is_zero() -> None:
    assert set(row({}, zeros()).values()) == {0.0}


def test_an_entity_without_evidence_has_zero_ratios_whatever_the_world_does() -> None:
    everything = zeros()
    everything[0] = np.array([1e5, 9e3, 700.0, 50.0, 300.0, 10.0])[:, None]
    values = row({}, everything)
    for name, value in values.items():
        if not name.startswith("global_ctr"):
            assert value == pytest.approx(0.0, abs=1e-12), name
    expected = math.log(smoothed(9e3, 1e5, BASE_RATE, BASE_WEIGHT) / BASE_RATE)
    assert values["global_ctr_60s"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("h", range(len(HALF_LIVES)))
def test_a_tables_counts_stand_in_the_columns_of_its_name_and_half_life(table: str, h: int) -> None:
    counts = zeros()
    counts[0, 0, h], counts[0, CLICK, h] = 100.0, 30.0
    values = row({table: counts}, zeros())
    rate = smoothed(30.0, 100.0, BASE_RATE, SMOOTHING)
    assert values.pop(f"{table}_volume_{HALF_LIVES[h]:g}s") > 0.0
    expected = {f"{table}_ctr_{HALF_LIVES[h]:g}s": math.log(rate / BASE_RATE)}
    if table == "item" and h == len(HALF_LIVES) - 1:
        # Impressions without a cart or purchase are evidence against them.
        lower = math.log(smoothed(0.0, 100.0, BASE_RATE, SMOOTHING) / BASE_RATE)
        expected |= {"item_cart_rate_600s": lower, "item_purchase_rate_600s": lower}
    for name, value in values.items():
        assert value == pytest.approx(expected.get(name, 0.0), rel=1e-5, abs=1e-7), name


def test_volume_grows_with_impressions_and_with_nothing_else() -> None:
    def volume(impressions: float, clicks: float) -> float:
        counts = zeros()
        counts[0, 0], counts[0, CLICK] = impressions, clicks
        return row({"item": counts}, zeros())["item_volume_60s"]

    volumes = [volume(impressions, 0.0) for impressions in (0.0, 1.0, 10.0, 1e3, 1e6)]
    assert volumes == sorted(set(volumes))
    assert volume(10.0, 9.0) == volume(10.0, 0.0)


@pytest.mark.parametrize(
    ("column", "name"), [(CART, "item_cart_rate_600s"), (PURCHASE, "item_purchase_rate_600s")]
)
def test_carts_and_purchases_of_the_item_are_compared_with_those_of_all(column: int, name: str) -> None:
    item, everything = zeros(), zeros()
    item[0, 0], item[0, column] = 50.0, 10.0
    everything[0, 0], everything[0, column] = 1000.0, 20.0
    base = smoothed(20.0, 1000.0, BASE_RATE, BASE_WEIGHT)
    expected = math.log(smoothed(10.0, 50.0, base, SMOOTHING) / base)
    assert row({"item": item}, everything)[name] == pytest.approx(expected, rel=1e-5)


def test_price_is_the_last_column() -> None:
    values = row({}, zeros(), price=99.0)
    assert values.pop("log_price") == pytest.approx(math.log(100.0) / 10.0)
    assert set(values.values()) == {0.0}


COUNT_BLOCKS = arrays.arrays(np.float64, (3, len(COUNTS), len(HALF_LIVES)), elements=COUNT)


@settings(max_examples=40, deadline=None)
@given(
    tables=st.fixed_dictionaries(dict.fromkeys(TABLES, COUNT_BLOCKS)),
    everything=COUNT_BLOCKS,
    prices=arrays.arrays(np.float64, 3, elements=st.floats(0, 1e12)),
    smoothing=st.floats(1e-3, 1e6),
)
def test_any_counts_that_are_not_negative_give_finite_features(
    tables: dict[str, FloatArray], everything: FloatArray, prices: FloatArray, smoothing: float
) -> None:
    # Also where hits exceed trials: late clicks outlive their impressions' decayed counts.
    assert np.isfinite(features(tables, everything, prices, smoothing)).all()


@settings(max_examples=40, deadline=None)
@given(tables=st.fixed_dictionaries(dict.fromkeys(TABLES, COUNT_BLOCKS)), everything=COUNT_BLOCKS)
def test_an_impressions_features_do_not_depend_on_its_neighbours(
    tables: dict[str, FloatArray], everything: FloatArray
) -> None:
    together = features(tables, everything, np.array([1.0, 2.0, 3.0]), SMOOTHING)
    for i in range(3):
        alone = features(
            {table: block[i : i + 1] for table, block in tables.items()},
            everything[i : i + 1],
            np.array([i + 1.0]),
            SMOOTHING,
        )
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-6)


def test_decay_halves_every_half_life_and_never_grows() -> None:
    faded = decay(np.array([0.0, 60_000.0, 600_000.0, -5_000.0]), HALF_LIVES)
    np.testing.assert_allclose(faded[0], [1.0, 1.0])
    np.testing.assert_allclose(faded[1], [0.5, 2**-0.1])
    np.testing.assert_allclose(faded[2], [2.0**-10, 0.5])
    np.testing.assert_array_equal(faded[3], [1.0, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    last=st.integers(-(2**62), 2**62),
    counts=arrays.arrays(
        np.float64, (len(COUNTS), 3), elements=st.floats(allow_nan=False, allow_infinity=False)
    ),
)
def test_a_row_comes_back_bit_for_bit(last: int, counts: FloatArray) -> None:
    again, values = unpack_row(pack_row(last, counts), 3)
    assert again == last
    assert values.tobytes() == counts.tobytes()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_row_of_another_length_is_refused_with_both_lengths(change: object) -> None:
    data = change(pack_row(0, np.zeros((len(COUNTS), 2))))  # type: ignore[operator]
    with pytest.raises(RowFormatError, match=rf"{len(data)} bytes; 2 half-lives need 104"):
        unpack_row(data, 2)


def test_a_row_with_other_half_lives_is_refused() -> None:
    with pytest.raises(RowFormatError, match="3 half-lives"):
        unpack_row(pack_row(0, np.zeros((len(COUNTS), 2))), 3)
