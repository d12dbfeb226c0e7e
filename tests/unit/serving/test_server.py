"""Fails when HTTP callers get another answer than the library's, or an error that says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from clients.connection import Connection
from contracts.weights import LearnerMetrics, Weights
from serving.follower import Follower
from serving.messages import MAX_BATCH_ITEMS, MAX_ITEMS, BatchScores, Item, ScoreRequest, Scores
from serving.scorer import Scorer
from serving.server import MAX_BODY, create_app

MakeWeights = Callable[..., Weights]
Client = TestClient[web.Request, web.Application]
BODY = {"user_id": "u", "items": [{"item_id": "a"}, {"item_id": "b", "position": 1}]}
REQUEST = ScoreRequest(user_id="u", items=[Item(item_id="a"), Item(item_id="b", position=1)])


@pytest.fixture
async def client(scorer: Scorer) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(scorer))) as client:
        yield client


async def samples(client: Client) -> dict[str, float]:
    lines = (await (await client.get("/metrics")).text()).splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


async def test_a_request_is_answered_as_the_library_does(
    client: Client, scorer: Scorer, make_weights: MakeWeights
) -> None:
    """JSON in, JSON out: scores in the order of the items, and the stamp."""
    scorer.offer(make_weights(version=4))
    response = await client.post("/score", json=BODY)
    assert (response.status, response.content_type) == (200, "application/json")
    assert msgspec.json.decode(await response.read(), type=Scores) == scorer.score(REQUEST)


@pytest.mark.parametrize("content_type", ["application/msgpack", "application/x-msgpack"])
async def test_messagepack_is_answered_in_messagepack(
    client: Client, scorer: Scorer, content_type: str
) -> None:
    """By content type."""
    data = msgspec.msgpack.encode(BODY)
    response = await client.post("/score", data=data, headers={"Content-Type": content_type})
    assert (response.status, response.content_type) == (200, "application/msgpack")
    assert msgspec.msgpack.decode(await response.read(), type=Scores) == scorer.score(REQUEST)


async def test_a_body_that_cannot_be_read_is_a_400_that_says_why(client: Client) -> None:
    """Failure: a 500 and a traceback, which callers and alerts take for our fault."""
    deep = b'{"user_id":"u","items":[{"item_id":"a"}],"x":' + b"[" * 100_000
    for body, headers, says in (
        (deep, {}, "nested too deeply"),
        (b'{"user_id":"\xff","items":[{"item_id":"a"}]}', {}, "not UTF-8"),
        (b"no gzip", {"Content-Encoding": "gzip"}, "not gzip"),
        (b"", {}, "truncated"),
    ):
        response = await client.post("/score", data=body, headers=headers)
        assert (response.status, response.content_type) == (400, "application/json")
        assert says in (await response.json())["error"]
    assert (await samples(client))['surgeline_serving_requests_total{status="400"}'] == 4


async def test_a_failure_inside_is_json_and_counted(
    client: Client, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: the one error that must ring is the one that no metric has."""

    def fail(_request: ScoreRequest) -> Scores:
        raise RuntimeError("a bug")

    monkeypatch.setattr(scorer, "score", fail)
    response = await client.post("/score", json=BODY)
    assert (response.status, response.content_type) == (500, "application/json")
    assert "log" in (await response.json())["error"]
    assert (await samples(client))['surgeline_serving_requests_total{status="500"}'] == 1


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"user_id": "u"}, "items", "missing"),
        ({"user_id": "u", "items": [{"item_id": 3}]}, "items[0].item_id", "Expected `str`"),
        ({"user_id": "u", "items": [{"item_id": "a"}] * (MAX_ITEMS + 1)}, "items", "1000"),
        (
            {"user_id": "u", "items": [{"item_id": "a", "features": {"brand": 1.0}}]},
            "items[0].features",
            "price.log",
        ),
    ],
)
async def test_a_wrong_request_is_a_400_that_names_the_field(
    client: Client, body: Any, field: str, says: str
) -> None:
    """So that a caller can mend it without our logs."""
    response = await client.post("/score", json=body)
    answer = await response.json()
    assert (response.status, answer["field"]) == (400, field)
    assert says in answer["error"]


@pytest.mark.parametrize("msgpack", [False, True])
async def test_a_batch_is_its_requests_scored_together(
    client: Client, scorer: Scorer, make_weights: MakeWeights, msgpack: bool
) -> None:
    """The answers of single requests, in their order, and every item counted."""
    scorer.offer(make_weights(version=4))
    batch = {"requests": [BODY, {"user_id": "v", "items": [{"item_id": "c"}]}, BODY]}
    encode = msgspec.msgpack.encode if msgpack else msgspec.json.encode
    headers = {"Content-Type": "application/msgpack" if msgpack else "application/json"}
    response = await client.post("/score/batch", data=encode(batch), headers=headers)
    decode = msgspec.msgpack.decode if msgpack else msgspec.json.decode
    answers = decode(await response.read(), type=BatchScores).answers  # type: ignore[operator]
    other = ScoreRequest(user_id="v", items=[Item(item_id="c")])
    want = [scorer.score(request) for request in (REQUEST, other, REQUEST)]
    assert [answer.scores for answer in answers] == [pytest.approx(one.scores) for one in want]
    assert [answer.stamp for answer in answers] == [one.stamp for one in want]
    assert (await samples(client))["surgeline_serving_items_total"] == 5


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"requests": []}, "requests", "length >= 1"),
        ({"requests": [BODY, {"user_id": "u", "items": [{}]}]}, "requests[1].items[0].item_id", "missing"),
        (
            {"requests": [{"user_id": "u", "items": [{"item_id": "a"}] * MAX_ITEMS}] * 6},
            "requests",
            f"at most {MAX_BATCH_ITEMS} items",
        ),
    ],
)
async def test_a_wrong_batch_is_a_400_that_names_the_field(
    client: Client, body: Any, field: str, says: str
) -> None:
    """One wrong request refuses the batch: half an answer would be taken for a whole one."""
    response = await client.post("/score/batch", json=body)
    answer = await response.json()
    assert (response.status, answer["field"]) == (400, field)
    assert says in answer["error"]


async def test_what_is_no_request_is_an_error_in_json(client: Client) -> None:
    """Garbage, too much, the wrong place, the wrong method."""
    garbage = await client.post("/score", data=b"\xff{")
    assert (garbage.status, garbage.content_type) == (400, "application/json")
    large = await client.post("/score", data=b" " * (MAX_BODY + 1))
    assert large.status == 413
    assert str(MAX_BODY) in (await large.json())["error"]
    nowhere = await client.get("/nowhere")
    assert (nowhere.status, await nowhere.json()) == (404, {"error": "Not Found"})
    method = await client.get("/score")
    assert (method.status, method.headers["Allow"]) == (405, "POST")
    figures = await samples(client)
    assert figures['surgeline_serving_requests_total{status="400"}'] == 1
    assert figures['surgeline_serving_requests_total{status="413"}'] == 1


async def test_the_largest_request_fits_the_body_limit(client: Client, scorer: Scorer) -> None:
    """1000 items with every feature logged must not meet the 413 first."""
    logged = dict.fromkeys(scorer.real_time_names, -1.2345678901234567)
    item = {"item_id": "i" * 64, "category_id": "c" * 64, "shop_id": "s" * 64, "features": logged}
    response = await client.post("/score", json={"user_id": "u", "items": [item] * MAX_ITEMS})
    assert response.status == 200
    assert len((await response.json())["scores"]) == MAX_ITEMS


async def test_weights_are_summarised(client: Client, scorer: Scorer, make_weights: MakeWeights) -> None:
    """Who serves since when, what it learned from, and its largest weights; null before any weights."""
    empty = await (await client.get("/weights")).json()
    assert (empty["version"], empty["sources"], empty["head"], empty["watermarks"]) == (0, {}, None, None)
    figure = LearnerMetrics(samples=900, positives=20, auc=0.7, log_loss=0.1, pcoc=1.01)
    scorer.offer(make_weights(version=4, metrics={"last_layer": figure}))
    scorer.offer(make_weights(version=2, source="w1"))
    summary = await (await client.get("/weights")).json()
    assert (summary["version"], summary["weights_age_ms"]) == (6, 1500)
    assert (summary["trunk_hash"], summary["feature_names"]) == ("stub", scorer.feature_names)
    assert list(summary["sources"]) == ["w0", "w1"]
    assert summary["sources"]["w0"]["version"] == 4
    assert summary["sources"]["w0"]["metrics"]["last_layer"]["auc"] == 0.7
    mean = scorer.snapshot.mean
    assert mean is not None
    assert summary["head"]["size"] == len(mean)
    assert max(map(abs, summary["head"]["largest"].values())) == abs(mean).max()


async def test_metrics_show_what_happened(client: Client, scorer: Scorer, make_weights: MakeWeights) -> None:
    """Every figure that an alert or a panel needs, under its published name."""
    scorer.offer(make_weights(version=4))
    scorer.offer(make_weights(version=4))
    scorer.offer(make_weights(version=5, trunk_hash="other"))
    scorer.view.apply([(b"w/0/item_id/" + b"1" * 16, b"short"), (b"w/0/item_id/" + b"2" * 16, b"")])
    await client.post("/score", json=BODY)
    figures = await samples(client)
    assert figures["surgeline_serving_weights_version"] == 4
    assert figures["surgeline_serving_weights_age_seconds"] == 1.5
    assert figures['surgeline_serving_source_version{source="w0"}'] == 4
    assert figures["surgeline_serving_swaps_total"] == 1
    assert figures['surgeline_serving_refused_total{reason="stale"}'] == 1
    assert figures['surgeline_serving_refused_total{reason="trunk_hash"}'] == 1
    assert figures['surgeline_serving_feature_rows{table="item_id"}'] == 0
    assert figures['surgeline_serving_feature_rows_dropped_total{table="item_id"}'] == 0
    assert figures['surgeline_serving_feature_rows_refused_total{reason="row"}'] == 1
    assert figures['surgeline_serving_requests_total{status="200"}'] == 1
    assert figures["surgeline_serving_items_total"] == 2
    assert figures["surgeline_serving_request_seconds_count"] == 1


async def test_without_a_follower_a_scorer_is_ready(client: Client) -> None:
    """Embedded in another process, there is no topic to wait for."""
    assert (await client.get("/health")).status == 200
    assert (await (await client.get("/ready")).json()) == {"status": "ready", "version": 0, "feature_rows": 0}


async def test_until_the_topics_are_read_it_is_alive_and_not_ready(
    scorer: Scorer, make_weights: MakeWeights
) -> None:
    """Failure: traffic is sent to a scorer without weights. No broker: not ready, names what it waits for,
    scores with the frozen head all the same, and stops at once."""
    follower = Follower(scorer, Connection("127.0.0.1:1"), "the-weights", "the-features")
    async with TestClient(TestServer(create_app(scorer, follower))) as client:
        response = await client.get("/ready")
        assert (response.status, (await response.json())["topics"]) == (503, ["the-weights", "the-features"])
        assert (await client.get("/health")).status == 200
        assert (await client.post("/score", json=BODY)).status == 200
        figures = await samples(client)
        assert figures["surgeline_serving_ready"] == 0
        assert figures['surgeline_serving_broker_connected{topic="the-weights"}'] == 0
        follower.weights.ready.set()
        assert (await (await client.get("/ready")).json())["topics"] == ["the-features"]
        follower.features.ready.set()
        assert (await client.get("/ready")).status == 200
        assert any(task.get_name() == "follower" for task in asyncio.all_tasks())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("follower", "feed"))]
