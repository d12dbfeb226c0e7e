"""Fails when a live scorer is told of more than it may know, asked at wrong positions, or misread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from replay.simulate import Double11, Double11Config
from replay.simulate.live import BATCH_ITEMS, LiveRank, LiveScorerError, ScorerClient, Watched
from replay.simulate.policy import Objective

CONFIG = Double11Config(
    minutes=0.1, rate=900.0, seed=5, users=400, items=200, categories=10, shops=20, cell_s=1.0, regret=True
)


class Scorer:
    """A scorer that likes items by their number; ``answer`` may spoil what it says."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.connections: set[Any] = set()
        self.status = 200
        self.answer: Any = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.connections.add(self.client_address)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                batch = msgspec.msgpack.decode(body)["requests"]
                outer.batches.append(batch)
                stamp = {"version": len(outer.batches), "weights_age_ms": 40, "more": "fields"}
                answers = [
                    {"scores": [score(item) for item in request["items"]], "stamp": stamp}
                    for request in batch
                ]
                data = msgspec.msgpack.encode(outer.answer or {"answers": answers})
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def score(item: dict[str, Any]) -> float:
    return (int(item["item_id"][1:]) + 1) / 1000.0 / (1 + item["position"])


@pytest.fixture
def scorer() -> Iterator[Scorer]:
    one = Scorer()
    yield one
    one.server.shutdown()
    one.server.server_close()


def event_time(t: np.ndarray) -> np.ndarray:
    return 1_000 + np.floor(t * 10).astype(np.int64)


def played(
    scorer: Scorer, objective: Objective = "clicks"
) -> tuple[LiveRank, ScorerClient, pl.DataFrame, pl.DataFrame]:
    client = ScorerClient(scorer.url)
    rank = LiveRank(client, event_time, objective)
    sim = Double11(CONFIG, rank=rank)
    rank.bind(sim)
    night = sim.night()
    client.close()
    return rank, client, night.log, night.truth


def test_the_highest_scores_are_shown_and_predicted_at_their_positions(scorer: Scorer) -> None:
    rank, client, log, _ = played(scorer)
    shown = log.filter(pl.col("event") == "impression")
    number = shown.with_columns(n=pl.col("item_id").str.slice(1).cast(pl.Int64))
    falls = number.select((pl.col("n").diff().over("request_id") < 0).fill_null(True).all()).item()
    assert falls, "each slate is in the order of the scores"
    predicted = np.concatenate(rank.predicted)
    assert predicted.tolist() == [score(row) for row in shown.iter_rows(named=True)]
    assert client.items == sum(len(request["items"]) for batch in scorer.batches for request in batch)


def test_for_revenue_slates_are_ordered_by_probability_times_price(scorer: Scorer) -> None:
    """And the predictions stay probabilities: a price in them would ruin AUC, log loss and PCOC."""
    rank, _, log, _ = played(scorer, "revenue")
    shown = log.filter(pl.col("event") == "impression")
    value = (pl.col("item_id").str.slice(1).cast(pl.Int64) + 1) * pl.col("price")
    falls = (value.diff().over("request_id") <= 1e-9).fill_null(True).all()
    assert shown.select(falls).item() and shown["price"].n_unique() > 50
    assert np.concatenate(rank.predicted).tolist() == [score(row) for row in shown.iter_rows(named=True)]


def test_a_scorer_gets_what_an_impression_has_and_nothing_of_the_truth(scorer: Scorer) -> None:
    """Latent columns, ids of impressions that are not shown yet, or the day's own clock would be a leak."""
    _, _, log, truth = played(scorer)
    request = {name for batch in scorer.batches for one in batch for name in one}
    item = {name for batch in scorer.batches for one in batch for thing in one["items"] for name in thing}
    assert request == {"user_id", "items", "context", "event_time"}
    assert item == {"item_id", "category_id", "shop_id", "position", "price"} <= set(log.columns)
    assert not (request | item) & (set(truth.columns) - {"impression_id"})
    times = {one["event_time"] for batch in scorer.batches for one in batch}
    assert min(times) >= 1_000 and max(times) <= 1_000 + 60, "times are those of the sending"


def test_requests_go_in_batches_over_one_connection(scorer: Scorer) -> None:
    played(scorer)
    sizes = [sum(len(one["items"]) for one in batch) for batch in scorer.batches]
    assert max(sizes) <= BATCH_ITEMS and len(scorer.connections) == 1
    assert max(len(batch) for batch in scorer.batches) > 20


def test_what_served_is_counted(scorer: Scorer) -> None:
    _, client, _, _ = played(scorer)
    assert sum(client.versions.values()) == sum(len(batch) for batch in scorer.batches)
    assert set(client.versions) == set(range(1, len(scorer.batches) + 1))
    assert client.ages_ms == [40] * len(scorer.batches) and len(client.seconds) == len(scorer.batches)


def test_a_closed_connection_is_opened_again(scorer: Scorer) -> None:
    client = ScorerClient(scorer.url)
    rank = LiveRank(client, event_time)
    sim = Double11(CONFIG, rank=rank)
    rank.bind(sim)
    for _ in sim.frames():
        assert client._connection.sock is not None
        client._connection.sock.close()
    assert len(scorer.connections) > 1


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (503, {"error": "reading"}, "status 503.*reading"),
        (200, {"answers": []}, "do not fit"),
        (200, {"scores": [1]}, "not an answer"),
    ],
)
def test_another_answer_is_an_error_that_names_the_scorer(
    scorer: Scorer, status: int, answer: Any, message: str
) -> None:
    scorer.status, scorer.answer = status, answer
    with pytest.raises(LiveScorerError, match=message) as error:
        played(scorer)
    assert scorer.url in str(error.value)


def test_no_scorer_is_an_error_that_names_it() -> None:
    rank = LiveRank(ScorerClient("http://127.0.0.1:1"), event_time)
    sim = Double11(CONFIG, rank=rank)
    with pytest.raises(LiveScorerError, match="call bind"):
        sim.night()
    rank.bind(sim)
    with pytest.raises(LiveScorerError, match=r"http://127\.0\.0\.1:1: no answer"):
        sim.night()


def test_equal_requests_have_equal_checksums_whoever_ranks() -> None:
    """And another seed has another: otherwise two arms could be compared that cannot."""
    best, worst = (Watched(lambda r, s=sign: s * r.items.astype(float)) for sign in (1.0, -1.0))  # type: ignore[misc]
    other = Watched(lambda r: r.items.astype(float))
    for watched, config in (
        (best, CONFIG),
        (worst, CONFIG),
        (other, msgspec.structs.replace(CONFIG, seed=6)),
    ):
        Double11(config, rank=watched).night()
    assert best.checksum == worst.checksum != other.checksum
    assert best.requests == worst.requests > 0


def test_a_night_can_begin_later_with_the_same_requests() -> None:
    """What is left out must not change what follows, or an evening and its night would be of two worlds."""
    seen: list[list[np.ndarray]] = [[], []]
    for from_s, into in ((0.0, seen[0]), (3.0, seen[1])):

        def rank(requests: Any, into: list[np.ndarray] = into) -> np.ndarray:
            into.append(requests.items[requests.t >= 3.0])
            return np.asarray(requests.items, dtype=float)

        times = np.concatenate(
            [log["event_time"].to_numpy() for log, _ in Double11(CONFIG, rank).frames(from_s)]
        )
        assert times.min() >= CONFIG.start_ms + from_s * 1000
    whole, part = (np.concatenate(items) for items in seen)
    assert whole.size and (whole == part).all()
