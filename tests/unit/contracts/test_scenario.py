"""Fails when a wrong scenario is taken, or refused without the file, the field and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from contracts.scenario import (
    DEFAULT_BOOTSTRAP,
    RIVER_LEARNERS,
    Scenario,
    ScenarioError,
    Times,
    bootstrap_servers,
    home,
    load_scenario,
    worker_id,
)
from models.online.river_learner import RIVER_MODELS


def load(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "sale.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ScenarioError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert re.match(rf"scenario {re.escape(str(tmp_path / 'sale.toml'))}(, line \d+)?: ", message)
    return message


def test_everything_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SURGELINE_SCENARIO", raising=False)
    assert load(tmp_path, "") == load_scenario() == Scenario()
    scenario = Scenario()
    assert scenario.topics.impressions == "surgeline-impressions"
    assert scenario.times.tick_s == 1.0
    assert scenario.features == {}


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    scenario = load(tmp_path, 'name = "eleven"\n[times]\nlabel_window_s = 30\n[topics]\npartitions = 8\n')
    assert scenario.name == "eleven"
    assert scenario.times == msgspec.structs.replace(Times(), label_window_s=30.0)
    assert scenario.topics.partitions == 8
    assert scenario.features == {}


def test_the_environment_names_a_file_and_an_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env.toml").write_text('name = "env"')
    (tmp_path / "given.toml").write_text('name = "given"')
    monkeypatch.setenv("SURGELINE_SCENARIO", str(tmp_path / "env.toml"))
    assert load_scenario().name == "env"
    assert load_scenario(tmp_path / "given.toml").name == "given"


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SURGELINE_HOME", raising=False)
    assert home() == Path(".surgeline")
    monkeypatch.setenv("SURGELINE_HOME", "elsewhere")
    assert home() == Path("elsewhere")
    # As containers pass on a variable that nobody set.
    monkeypatch.setenv("SURGELINE_HOME", "")
    assert home() == Path(".surgeline")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", DEFAULT_BOOTSTRAP),
        ("kafka-1:9092, kafka-2:9093", "kafka-1:9092,kafka-2:9093"),
        ("[::1]:9092", "[::1]:9092"),
    ],
)
def test_the_broker_is_named_by_the_environment(
    given: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", given)
    assert bootstrap_servers() == used
    assert bootstrap_servers("other:1") == "other:1"


@pytest.mark.parametrize(
    "wrong", ["kafka", "kafka:port", "http://kafka:9092", "kafka:9092:1", " , ", "a:1,", "a:0", "a:65536"]
)
def test_what_is_no_address_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: a traceback of the Kafka client, or half a minute of tries."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", wrong)
    with pytest.raises(ScenarioError, match=r"KAFKA_BOOTSTRAP.*expected host:port"):
        bootstrap_servers()


@pytest.mark.parametrize("wrong", ["a/b", "..", "a b", "é", "x" * 250, "a\n"])
def test_a_worker_id_that_does_not_fit_into_keys_and_paths_is_refused(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: with a slash in it serving reads another source and table out of every feature row's key."""
    monkeypatch.setenv("SURGELINE_WORKER_ID", wrong)
    with pytest.raises(ScenarioError, match=r"SURGELINE_WORKER_ID .* allowed are"):
        worker_id()


@pytest.mark.parametrize(("given", "used"), [("", "0"), ("shop-1.eu_2", "shop-1.eu_2")])
def test_an_empty_worker_id_is_the_default(given: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGELINE_WORKER_ID", given)
    assert worker_id() == used


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        ('name = "a b"', "$.name", "regex"),
        ("trunk = 1", "$.trunk", "`str`"),
        ('[topics]\nweights = ""', "$.topics.weights", "regex"),
        ('[topics]\nweights = ".."', "$.topics.weights", "regex"),
        ('[topics]\nweights = "a\\n"', "$.topics.weights", "regex"),
        ("[topics]\npartitions = 0", "$.topics.partitions", ">= 1"),
        ('[topics]\npartitions = "4"', "$.topics.partitions", "`int`"),
        ("[topics]\nreplication = 17", "$.topics.replication", "<= 16"),
        ("[times]\ntick_s = 0.05", "$.times.tick_s", ">= 0.1"),
        ("[times]\ntick_s = 4000", "$.times.tick_s", "<= 3600"),
        ("[times]\nlabel_window_s = 0", "$.times.label_window_s", "> 0"),
        ("[times]\njoin_limit_s = -1", "$.times.join_limit_s", "> 0"),
        ("[times]\nlateness_s = -1", "$.times.lateness_s", ">= 0"),
        ('[times]\nidle_s = "long"', "$.times.idle_s", "`float`"),
        ("[times]\nmax_future_s = 1e9", "$.times.max_future_s", "<= 864000"),
        ("[times]\ntick_s = nan", "$.times.tick_s", ">= 0.1"),
        ("[state]\ncached_rows = 10", "$.state.cached_rows", ">= 1000"),
        ("[state]\nforget_s = 0", "$.state.forget_s", "> 0"),
        ("[learners]\nprior_precision = 0", "$.learners.prior_precision", "> 0"),
        ("[learners]\nfeature_prior_precision = 1e10", "$.learners.feature_prior_precision", "<= 1000000000"),
        ("[learners]\nhalf_life_s = 0", "$.learners.half_life_s", "> 0"),
        ("[learners]\nriver = [1]", "$.learners.river", "`str`"),
        ("[learners]\nriver = ['forest']", "learners.river has 'forest'", "ftrl, logistic, sgd"),
        ("[learners]\nriver = ['sgd', 'sgd']", "learners.river", "repeat"),
        ("[learners]\nriver_samples_per_tick = 0", "$.learners.river_samples_per_tick", ">= 1"),
        ("times = 1", "$.times", "`object`"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_is_allowed(
    tmp_path: Path, text: str, field: str, allowed: str
) -> None:
    message = refused(tmp_path, text)
    assert field in message
    assert allowed in message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("label_window_s = 5", "label_window_s"),
        ("[times]\nlable_window_s = 5", "lable_window_s"),
        ("[topics]\nclicks = 'x'", "clicks"),
        ("[state]\ncached = 1", "cached"),
        ("[learners]\nrate = 1", "rate"),
    ],
)
def test_an_unknown_field_is_named(tmp_path: Path, text: str, field: str) -> None:
    assert f"unknown field `{field}`" in refused(tmp_path, text)


@pytest.mark.parametrize("data", [b"name = ", b"[times\n", b"name = 'a'\nname = 'b'", b"name = '\xff'"])
def test_what_is_not_toml_is_said_to_be_that(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "sale.toml").write_bytes(data)
    with pytest.raises(ScenarioError, match="not TOML"):
        load_scenario(tmp_path / "sale.toml")


def test_a_missing_file_and_a_folder_are_refused_with_their_path(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ScenarioError, match="cannot be read") as error:
            load_scenario(path)
        assert str(path) in str(error.value)


# -- rules across fields


def test_an_impression_cannot_be_forgotten_before_its_label_stands(tmp_path: Path) -> None:
    message = refused(tmp_path, "[times]\nlabel_window_s = 400")
    assert "times.join_limit_s (300) must be at least times.label_window_s (400)" in message
    load(tmp_path, "[times]\nlabel_window_s = 300")


@pytest.mark.parametrize(
    "text",
    [
        "impressions = 'a'\nactions = 'a'",
        "weights = 'surgeline-features'",
        "dead_letter = 'surgeline-actions'",
    ],
)
def test_topics_must_differ(tmp_path: Path, text: str) -> None:
    """Failure: impressions are read as actions, or dead letters are read again as events, for ever."""
    assert "must be six different topics" in refused(tmp_path, f"[topics]\n{text}")


def test_a_half_life_far_below_a_tick_is_refused(tmp_path: Path) -> None:
    """Within one tick evidence would fade to nothing but rounding errors."""
    said = refused(tmp_path, "[learners]\nhalf_life_s = 0.001")
    assert "learners.half_life_s (0.001) must be at least a tenth of times.tick_s" in said


def test_features_are_whatever_families_there_are(tmp_path: Path) -> None:
    """Which there are, and what they may say, is checked where they are: a family needs no change here."""
    scenario = load(tmp_path, '[[features.counts]]\nkeys = ["item_id"]\n')
    assert scenario.features == {"counts": [{"keys": ["item_id"]}]}


def test_the_river_learners_of_a_scenario_are_those_that_there_are() -> None:
    assert sorted(RIVER_LEARNERS) == sorted(RIVER_MODELS)
