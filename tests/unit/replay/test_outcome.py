"""Failure: a replay of an older log begins without a word, ends before or long after the workers have learned
it, or stops because something about the workers could not be found out.

Required: what will happen is said before; the end names the first weights that know all of it, and what came
late or was dropped; where nothing is known nothing is claimed.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest

from clients.connection import connection
from contracts.scenario import Times
from contracts.weights import Head, Watermarks, Weights, encode_weights
from replay.outcome import Outcome, follow, in_words, older_than_done
from replay.workers import TAIL, WorkerReport, _take, newest, running

T0 = 1_700_000_000_000
TIMES = Times()


def report(version: int, source: str = "0", *, until: int = T0, **counts: Any) -> WorkerReport:
    data = {"source": source, "version": version, "created_at": T0 + version * 1000, **counts}
    return msgspec.convert(data | {"watermarks": {"features": until, "labels": until}}, WorkerReport)


class Steps:
    """A lag, and reports, that change from look to look; the last one stays."""

    def __init__(self, lags: Iterable[int | None], reports: Iterable[Mapping[str, WorkerReport]]) -> None:
        self._lags, self._reports = list(lags), list(reports)
        self.answered = True

    async def now(self) -> int | None:
        return self._lags.pop(0) if len(self._lags) > 1 else self._lags[0]

    async def read(self) -> Mapping[str, WorkerReport]:
        return self._reports.pop(0) if len(self._reports) > 1 else self._reports[0]


def followed(
    steps: Steps,
    before: Mapping[str, WorkerReport] | None = None,
    patience_s: float | None = 5.0,
    stop: bool = False,
) -> Outcome | None:
    async def run() -> Outcome | None:
        event = asyncio.Event()
        if stop:
            event.set()
        return await follow(steps, steps.read, before or {}, T0, patience_s, event)

    return asyncio.run(run())


def test_the_weights_after_the_commit_know_it() -> None:
    """Those that stand there when the lag is 0 may be of before the last tick."""
    steps = Steps([7, 3, 0], [{"0": report(5)}, {"0": report(5)}, {"0": report(6)}])
    outcome = followed(steps)
    assert outcome is not None and (outcome.behind, outcome.versions) == (0, {"0": 6})
    assert "weights know it from version 6 of worker 0 on" in in_words(outcome, "g", TIMES)[0]


def test_labels_that_are_open_are_waited_for() -> None:
    open_, closed = report(6, until=T0 - 1), report(9)
    outcome = followed(Steps([0], [{"0": report(5)}, {"0": open_}, {"0": closed}]))
    assert outcome is not None and outcome.versions == {"0": 9}


def test_a_worker_without_events_holds_nothing_up() -> None:
    first = {"0": report(5), "spare": report(50, "spare", until=0)}
    then = {"0": report(6), "spare": report(51, "spare", until=0)}
    outcome = followed(Steps([0], [first, then]))
    assert outcome is not None and outcome.versions == {"0": 6, "spare": 51}


def test_what_the_workers_counted_meanwhile_is_told() -> None:
    before = {"0": report(5, late=10, duplicates=4)}
    after = {"0": report(7, late=13, duplicates=9), "1": report(7, "1", late=100)}
    outcome = followed(Steps([0], [before, after]), before)
    assert outcome is not None and (outcome.late, outcome.duplicates, outcome.older_logs) == (103, 5, 0)
    said = "\n".join(in_words(outcome, "g", TIMES))
    assert "103 events came late" in said
    assert "5 events were dropped as duplicates" in said and "--new-ids" in said


def test_a_state_that_began_anew_counts_from_nothing() -> None:
    outcome = followed(Steps([0], [{"0": report(1)}, {"0": report(2, late=3)}]), {"0": report(900, late=50)})
    assert outcome is not None and outcome.late == 3


def test_an_older_log_is_told_with_its_late_events() -> None:
    said = in_words(Outcome(behind=0, labels_ms=T0, versions={"0": 3}, older_logs=1, late=70), "g", TIMES)
    assert [line for line in said if "time started over" in line and "70 events count as late" in line]
    assert not [line for line in said if "learned at once" in line]


def test_patience_ends_and_says_how_to_see_it() -> None:
    now = round(time.time() * 1000)
    outcome = followed(Steps([1234], [{"0": msgspec.structs.replace(report(5), created_at=now)}]), {}, 0.1)
    assert outcome is not None and (outcome.behind, outcome.versions) == (1234, {})
    (line,) = in_words(outcome, "g", TIMES)
    assert (
        "behind by 1,234 records" in line
        and "`--wait`" in line
        and f"watermarks.labels in its stamp is {T0}" in line
    )


def test_without_a_worker_that_is_said() -> None:
    nobody = followed(Steps([None], [{}]), {}, 0.1)
    assert nobody is not None
    assert "no worker has done anything of it yet (group 'g'" in in_words(nobody, "g", TIMES)[0]
    gone = followed(Steps([9], [{"0": report(5)}]), {}, 0.1)
    assert gone is not None
    assert "none seems to run: the newest weights are of 2023-11-14" in in_words(gone, "g", TIMES)[0]


def test_who_waits_is_told_when_nobody_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.outcome.STUCK_S", 0.5)
    now = round(time.time() * 1000)
    stuck = followed(Steps([9], [{"0": msgspec.structs.replace(report(5), created_at=now)}]), {}, None)
    assert stuck is not None and stuck.gave_up
    assert "did not get on for 0.5 s" in in_words(stuck, "g", TIMES)[0]


def test_ctrl_c_ends_the_waiting() -> None:
    outcome = followed(Steps([9], [{"0": report(5)}]), {}, None, stop=True)
    assert outcome is not None and outcome.stopped and not outcome.gave_up


def test_a_broker_that_does_not_say_gives_no_outcome() -> None:
    steps = Steps([None], [{}])
    steps.answered = False
    assert followed(steps, {}, 0.1) is None


@pytest.mark.parametrize(
    ("behind_ms", "says"),
    [
        (-1, None),
        (0, None),
        (
            1,
            "0 s before what the workers have done (2023-11-14 22:13:20 UTC): what is older than that",
        ),
        (300_000, "300 s before"),
        (300_001, "time starts over for them with an older log"),
        (7 * 86_400_000, "7.0 days before"),
    ],
)
def test_an_older_log_is_said_before_it_begins(behind_ms: int, says: str | None) -> None:
    line = older_than_done(T0 - behind_ms, {"0": report(5), "1": report(5, "1", until=T0 - 10**9)}, TIMES)
    assert line is None if says is None else (line is not None and says in line)
    assert line is None or behind_ms <= 300_000 or "--time now" in line


def test_nothing_is_said_where_nobody_has_done_anything() -> None:
    assert older_than_done(T0, {}, TIMES) is None
    assert older_than_done(T0, {"0": report(5, until=0)}, TIMES) is None


def test_reports_are_read_off_real_weights_of_any_release() -> None:
    """The part is decoded without the room that makes the whole; older weights have no counts."""
    head = Head(mean=[0.0], prior_mean=[0.0], prior_precision="", precision="")
    weights = Weights(
        source="0",
        version=3,
        parent=2,
        trunk_hash="none",
        feature_names=["bias"],
        features_hash="",
        heads={"ctr": head},
        watermarks=Watermarks(features=T0, labels=T0 - 5),
        created_at=T0,
        samples=1,
        metrics={},
        late=7,
        older_logs=1,
        duplicates=2,
    )
    found: dict[str, WorkerReport] = {}
    _take(found, weights.key, encode_weights(weights))
    one = found["0"]
    assert (one.version, one.watermarks.features, one.watermarks.labels) == (3, T0, T0 - 5)
    assert (one.late, one.older_logs, one.duplicates) == (7, 1, 2)
    old = msgspec.to_builtins(weights)
    for name in ("late", "older_logs", "duplicates"):
        del old[name]
    _take(found, weights.key, msgspec.json.encode(old))
    assert found["0"].late == 0
    _take(found, weights.key, b"garbage")
    assert found["0"].version == 3
    _take(found, weights.key, None)
    assert found == {}


def test_a_worker_that_stopped_is_not_waited_for() -> None:
    reports = {"0": report(100), "gone": report(5, "gone")}
    assert set(running(reports)) == {"0"}
    assert TAIL >= 60  # a second of sixty workers


def test_a_broker_that_is_away_or_silent_breaks_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        assert asyncio.run(newest(connection(None, f"127.0.0.1:{port}"), "weights", within_s=0.5)) == {}
    assert asyncio.run(newest(connection(None, f"127.0.0.1:{port}"), "weights", within_s=0.5)) == {}
    assert time.monotonic() - begun < 60
