"""``surgeline features``: what is declared, what each feature costs, and from an evaluation its worth."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import click
import msgspec

from contracts.errors import SurgelineError
from contracts.events import ACTIONS
from contracts.feature_worth import FeatureWorth
from contracts.scenario import Scenario
from features.declared import plan_from
from features.load import load_declared
from features.plan import Plan
from models.deep.trunk import Trunk
from replay.report.schema import Evaluation
from replay.simulate import Double11, Double11Config
from surgeline.evaluation.rehearse import Rehearsal

#: What costs are measured on: the last calm minute and the first of a sale, about 50,000 events.
MEASURED = Double11Config(minutes=2.0, rate=150.0, seed=1)
CHUNK_ROWS = 16_384
NUMBER_BYTES = 8
UNDEFINED = "–"


class FeaturesTableError(SurgelineError, ValueError):
    """The table cannot be made as asked; the message says why."""


class FeatureLine(msgspec.Struct, kw_only=True, frozen=True):
    """One feature: its honest range, its value where nothing is known, the tables whose rows it reads.

    ``nanoseconds``: of the features' pass, an event of a simulated sale on this machine; what several
    features share is split evenly. None where it was not measured. ``worth``: from an evaluation.
    """

    name: str
    low: float
    high: float
    neutral: float
    tables: list[str]
    nanoseconds: float | None = None
    worth: FeatureWorth | None = None


class TableLine(msgspec.Struct, kw_only=True, frozen=True):
    """A table of rows: bytes a row in memory, without its key."""

    name: str
    bytes_a_row: int


class FeaturesTable(msgspec.Struct, kw_only=True, frozen=True):
    """What ``surgeline features --json`` writes. ``features_hash``: of the plan, as in trunks and weights."""

    features_hash: str
    features: list[FeatureLine]
    tables: list[TableLine]


def features_table(
    scenario: Scenario, worth: list[FeatureWorth] | None = None, measured: bool = True
) -> FeaturesTable:
    """The table of a scenario's features. Raises ``FeaturesError`` for a wrong declaration."""
    plan = plan_from(scenario.features, ACTIONS)
    costs = measure(scenario) if measured else [None] * len(plan.features)
    known = {one.name: one for one in worth or []}
    if worth is not None and not known.keys() & set(plan.names):
        raise FeaturesTableError("the evaluation has none of the features that the scenario declares")
    lines = [
        FeatureLine(
            name=feature.name,
            low=feature.low,
            high=feature.high,
            neutral=feature.neutral,
            tables=plan.table_of(feature.name),
            nanoseconds=cost,
            worth=known.get(feature.name),
        )
        for feature, cost in zip(plan.features, costs, strict=True)
    ]
    return FeaturesTable(features_hash=plan.hash, features=lines, tables=_tables(plan))


def measure(scenario: Scenario) -> list[float | None]:
    """Nanoseconds an event of each feature, in an engine that works off a simulated sale."""
    events = Double11(MEASURED).night().log
    with tempfile.TemporaryDirectory(prefix="surgeline-features-") as folder:
        rehearsal = Rehearsal(scenario, Trunk.empty(), folder)
        plan = rehearsal.engine.plan
        with contextlib.closing(rehearsal.engine.store):
            # The first part compiles the kernels and fills the tables.
            for frame in events.head(events.height // 4).iter_slices(CHUNK_ROWS):
                rehearsal.feed(frame)
            plan.spent = {}
            rest = events.slice(events.height // 4)
            for frame in rest.iter_slices(CHUNK_ROWS):
                rehearsal.feed(frame)
            rehearsal.finish()
    return [spent / rest.height for spent in plan.spent_by()]


def text(table: FeaturesTable) -> str:
    """The table in words, the most worth or the dearest feature first."""
    lines = [
        f"{len(table.features)} features (hash {table.features_hash[:12]}), {len(table.tables)} tables",
        "",
    ]
    width = max([len(one.name) for one in table.features] + [7])
    worth = any(one.worth is not None for one in table.features)
    head = f"{'feature':<{width}}{'low':>8}{'high':>8}{'unknown':>9}{'ns/event':>10}"
    lines.append(head + (f"{'known':>8}{'AUC':>8}{'gain':>8}" if worth else "") + "  rows of")
    for one in sorted(table.features, key=_rank):
        cost = UNDEFINED if one.nanoseconds is None else f"{one.nanoseconds:.1f}"
        line = f"{one.name:<{width}}{one.low:>8g}{one.high:>8g}{one.neutral:>9g}{cost:>10}"
        lines.append(line + (_worth(one.worth) if worth else "") + f"  {', '.join(one.tables) or UNDEFINED}")
    lines += ["", f"{'table':<{width}}{'bytes a row':>16}"]
    lines += [f"{one.name:<{width}}{one.bytes_a_row:>16,}" for one in table.tables]
    if any(one.nanoseconds is not None for one in table.features):
        total = sum(one.nanoseconds or 0.0 for one in table.features)
        lines += [
            "",
            f"All together: {total:,.0f} ns an event of a simulated sale, on this machine.",
        ]
    return "\n".join(lines)


def _rank(one: FeatureLine) -> tuple[float, float]:
    gain = one.worth.gain_share if one.worth is not None else None
    return -(gain or 0.0), -(one.nanoseconds or 0.0)


def _worth(worth: FeatureWorth | None) -> str:
    values = (None, None, None) if worth is None else (worth.known, worth.auc, worth.gain_share)
    known, auc, gain = (UNDEFINED if value is None else value for value in values)
    parts = [
        known if isinstance(known, str) else f"{known:.1%}",
        auc if isinstance(auc, str) else f"{auc:.3f}",
    ]
    parts.append(gain if isinstance(gain, str) else f"{gain:.1%}")
    return "".join(f"{part:>8}" for part in parts)


def _tables(plan: Plan) -> list[TableLine]:
    return [
        TableLine(name=name, bytes_a_row=layout.width * NUMBER_BYTES) for name, layout in plan.tables.items()
    ]


def read_worth(path: Path) -> list[FeatureWorth]:
    """Of the file that ``surgeline evaluate --json`` wrote. Raises ``FeaturesTableError``."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evaluation).features
    except OSError as error:
        raise FeaturesTableError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise FeaturesTableError(
            f"{path}: is not what `surgeline evaluate --json` writes: {error}"
        ) from error


@click.command()
@click.option("--scenario", type=click.Path(dir_okay=False), help="TOML file.  [default: SURGELINE_SCENARIO]")
@click.option(
    "--evaluation",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What each is worth: the JSON of `surgeline evaluate --json`.",
)
@click.option("--cost/--no-cost", default=True, help="Measure what each costs (some seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(scenario: str | None, evaluation: Path | None, cost: bool, as_json: bool) -> None:
    """List the features that the scenario declares: range, tables, cost, and what each is worth."""
    worth = read_worth(evaluation) if evaluation is not None else None
    table = features_table(load_declared(scenario), worth, cost)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(table), indent=1).decode())
    else:
        click.echo(text(table))
