"""Fails when the live page loads anything from elsewhere, reads a field that ``/live/data`` does not send,
is not served, or is not valid JavaScript; and when the history behind it grows without bound, forgets
what the page asks for, or reports one late tick as the peak.

The page has no build step, so nothing else would notice a renamed field: the screen would show dashes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from contracts.scenario import Scenario, Times
from contracts.weights import LearnerMetrics
from models.deep.locate import resolve_trunk
from state.store import Store
from stream.engine import Engine
from stream.history import SECONDS, History, HotItem, LiveView, Moment
from stream.intake import ACTIONS_KIND, IMPRESSIONS
from stream.live import _page, add_pages
from stream.notices import Notice
from stream.pulse import Pulse
from stream.resume import Place
from stream.timeline import Source

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "stream" / "live.html").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
CODE = "\n".join(SCRIPTS)

#: The page's own names for what comes from the worker, and the structs behind them.
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "view": LiveView,
    "answer": LiveView,
    "moment": Moment,
    "newest": Moment,
    "figures": LearnerMetrics,
    "all": LearnerMetrics,
    "hot": HotItem,
    "notice": Notice,
}


def _reads(code: str, name: str) -> set[str]:
    return set(re.findall(rf"(?<![\w.]){name}\.(\w+)", code))


def _unknown_reads(code: str) -> set[str]:
    """Reads of fields that the schema does not have, as ``name.field``."""
    return {
        f"{name}.{field}"
        for name, struct in STRUCTS.items()
        for field in _reads(code, name) - set(struct.__struct_fields__)
        if not (name == "all" and field == "indexOf")
    }


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    scenario = Scenario()
    engine = Engine(scenario, Store(tmp_path / "state"), resolve_trunk(scenario.trunk, tmp_path))
    for kind in (IMPRESSIONS, ACTIONS_KIND):
        engine.assign(Source(kind, 0), Place())
    yield engine
    engine.store.close()


# -- what the page reads


def test_every_field_that_the_page_reads_is_sent() -> None:
    assert _unknown_reads(CODE) == set()


@pytest.mark.parametrize("name", ["view", "moment", "figures", "hot"])
def test_the_check_above_sees_a_renamed_field(name: str) -> None:
    field = sorted(_reads(CODE, name) & set(STRUCTS[name].__struct_fields__))[0]
    broken = CODE.replace(f"{name}.{field}", f"{name}.{field}_old")
    assert _unknown_reads(broken) == {f"{name}.{field}_old"}


def test_the_check_cannot_be_walked_around() -> None:
    """Fields are read as ``name.field`` only: no destructuring, no computed key of an answer."""
    assert not re.search(r"\}\s*=\s*(view|answer|moment|newest|hot)\b", CODE)
    assert not re.search(r"(?<![\w.])(view|answer|moment|newest|hot)\[", CODE)


@pytest.mark.parametrize("struct", [LiveView, Moment, HotItem, Notice])
def test_nothing_is_sent_that_the_page_does_not_read(struct: type[msgspec.Struct]) -> None:
    names = [name for name, of in STRUCTS.items() if of is struct]
    read = set().union(*(_reads(CODE, name) for name in names))
    assert set(struct.__struct_fields__) - read == set()


def test_totals_and_figures_by_key_exist(engine: Engine) -> None:
    history = History(Pulse(Times()))
    history.record(engine, 0, 0)
    view = history.view()
    assert view is not None
    named = _reads(CODE, "totals")
    listed = set(re.findall(r'^  \["(\w+)", "', CODE, re.MULTILINE))  # the QUALITY table
    assert {"late", "ahead", "dead_letters", "orphans_expired", "older_logs", "lost"} <= listed
    assert named | listed | _reads(CODE, r"view\.totals") <= set(view.totals)
    sortable = set(re.findall(r'data-sort="(\w+)"', PAGE))
    assert sortable and sortable <= set(LearnerMetrics.__struct_fields__)


def test_no_learner_is_known_to_the_page(engine: Engine) -> None:
    for name in engine.panel.learner_names:
        assert name not in PAGE, f"{name} must come from the data"


def test_every_element_that_the_script_looks_up_is_there() -> None:
    ids = set(re.findall(r'\bid="([\w-]+)"', PAGE))
    used = set(re.findall(r'(?:\$|write|mood|choose)\("([\w-]+)"', CODE))
    used |= set(re.findall(r'\{ id: "([\w-]+)"', CODE))
    assert len(used) > 20
    assert used - ids == set()


# -- self-contained


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert re.findall(r"(?i)\b(?:https?|wss?|ftp):", PAGE) == []
    others = r"(?i)@import|(?<!\w)url\(|<iframe|<embed|<object|import\(|WebSocket|EventSource"
    assert re.findall(others, PAGE) == []
    assert (
        re.findall(r'(?i)<(?:script|img|audio|video|source)\b[^>]*\bsrc=|\b(?:src|href)="(?!data:)', PAGE)
        == []
    )
    assert re.findall(r"fetch\(`([^?]*)\?", CODE) == ["live/data"], "one address, relative to the page's own"


def test_the_browser_is_told_to_refuse_loads_from_elsewhere() -> None:
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', PAGE)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "*" not in policy[1]


def test_every_state_of_the_page_has_a_look_a_word_and_an_icon() -> None:
    """A state without one shows as if all were well: above all the one in which ticks stand."""
    body = CODE[CODE.index("function status()") : CODE.index("function icon(")]
    states = set(re.findall(r'state = "(\w+)"', body))
    assert states == {"live", "waiting", "down", "stuck", "standing"}
    spoken = re.search(r"const spoken = \{(.*?)\}\[state\]", body)
    colours = re.search(r"g\.fillStyle = \{(.*?)\}\[state\]", CODE)
    assert spoken is not None and colours is not None
    for state in states:
        assert f'.status[data-state="{state}"] {{' in PAGE or f'.status[data-state="{state}"],' in PAGE
        assert f"{state}: " in spoken[1] and f"{state}: " in colours[1]
    assert "view.standing_s > 0) {\n" in body


def test_ids_are_unique() -> None:
    ids = re.findall(r'\bid="([\w-]+)"', PAGE)
    assert sorted(ids) == sorted(set(ids))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_javascript(tmp_path: Path) -> None:
    script = tmp_path / "live.js"
    script.write_text(CODE.replace('"use strict";', ""), encoding="utf-8")
    done = subprocess.run(["node", "--check", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_numbers_are_short_and_a_missing_ratio_is_a_dash(tmp_path: Path) -> None:
    begin, end = CODE.index("// ---- numbers and times"), CODE.index("const clockFormat")
    cases = {
        "compact(0)": "0",
        "compact(999)": "999",
        "compact(1234)": "1.23k",
        "compact(999999)": "1.00M",
        "compact(3400000)": "3.40M",
        "compact(ratio(5, 0))": "–",
        "percent(ratio(0, 0))": "–",
        "percent(ratio(1, 8))": "12.5%",
        "percent(0.0034)": "0.34%",
        "percent(0)": "0.00%",
        "times(NaN)": "–",
        "times(1)": "1.00",
        "duration(null)": "–",
        "duration(1700)": "1.7 s",
        "duration(300000)": "5 min",
    }
    script = tmp_path / "numbers.js"
    script.write_text(
        f'const DASH = "–";\n{CODE[begin:end]}\nconsole.log(JSON.stringify([{", ".join(cases)}]))',
        encoding="utf-8",
    )
    done = subprocess.run(["node", script], capture_output=True, text=True, check=True, encoding="utf-8")
    assert dict(zip(cases, json.loads(done.stdout), strict=True)) == cases


# -- served


Handler = Callable[[Any, Any], Awaitable[Any]]


class _App:
    """As much of a Faust app as the pages need."""

    def __init__(self) -> None:
        self.pages: dict[str, Handler] = {}

    def page(self, path: str) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.pages[path] = handler
            return handler

        return add


async def test_the_page_and_its_data_are_served(engine: Engine) -> None:
    app, history = _App(), History(Pulse(Times()))
    add_pages(app, SimpleNamespace(history=history))  # type: ignore[arg-type]
    _page.cache_clear()
    page = await app.pages["/live"](None, None)
    assert (page.status, page.content_type, page.text) == (200, "text/html", PAGE)

    async def data(since: str) -> Any:
        return await app.pages["/live/data"](None, SimpleNamespace(query={"since": since}))

    assert (await data("0")).status == 503, "before the first tick"
    history.record(engine, 0, 1)
    answer = await data("0")
    assert answer.status == 200
    view = msgspec.json.decode(answer.body, type=LiveView)
    assert len(view.moments) == 1
    assert view.champion in view.learners
    again = msgspec.json.decode((await data(str(view.moments[0].at))).body, type=LiveView)
    assert again.moments == [], "only what is newer than what the page has"
    assert len(msgspec.json.decode((await data("x")).body, type=LiveView).moments) == 1


# -- the history behind it


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = 1_762_790_400_000
        monkeypatch.setattr("stream.history.time", SimpleNamespace(time=lambda: self.ms / 1000))


def _record(history: History, engine: Engine, impressions: int) -> LiveView:
    if impressions:
        engine.stats.seen(1000, impressions, 0, 0)
    history.record(engine, 0, 0)
    view = history.view()
    assert view is not None
    return view


def test_the_history_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, history = _Clock(monkeypatch), History(Pulse(Times()))
    for _ in range(SECONDS + 20):
        clock.ms += 1000
        view = _record(history, engine, 0)
    assert len(view.moments) == view.kept_s == SECONDS
    assert view.moments[-1].at == clock.ms
    assert view.peak_rate == 0.0 and view.peak_at == 0


def test_the_peak_is_a_mean_over_seconds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 events in one second among quiet ones are 200 a second; the peak stays when it is over."""
    clock, history = _Clock(monkeypatch), History(Pulse(Times()))
    for second in range(60):
        clock.ms += 1000
        view = _record(history, engine, 1000 if second == 20 else 0)
    assert view.peak_rate == pytest.approx(200.0)
    assert view.peak_at == 1_762_790_400_000 + 21_000


def test_a_tick_that_took_long_is_not_a_peak(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 events a second, then a tick of ten seconds that holds ten seconds of events."""
    clock, history = _Clock(monkeypatch), History(Pulse(Times()))
    for _ in range(30):
        clock.ms += 1000
        _record(history, engine, 100)
    clock.ms += 10_000
    assert _record(history, engine, 1000).peak_rate == pytest.approx(100.0)
