"""Train a trunk, on samples or on a recorded log: ``python -m models.train KIND --log LOG --out DIR``.

A recorded log alone has ids and context; real-time features come from the engine's own pass over it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl

from contracts.errors import SurgelineError
from models.deep.chance import WORTHWHILE_AUC, auc_interval, clicks_to_tell
from models.deep.fitted import Fitted, Options, export
from models.deep.load import kinds
from models.deep.manifest import Training
from models.deep.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUIRED = ("event", "event_time", "impression_id", "user_id", "item_id", "action")
_OPTIONAL: dict[str, tuple[pl.DataType, object]] = {
    "category_id": (pl.String(), ""),
    "shop_id": (pl.String(), ""),
    "position": (pl.Int64(), 0),
    "price": (pl.Float64(), 0.0),
}


class TrainError(SurgelineError, ValueError):
    """The log cannot be trained on; the message says what is missing."""


class TrainReport(msgspec.Struct, kw_only=True, frozen=True):
    """Where the trunk was written, its hash, what it reads and how it did."""

    folder: str
    trunk_hash: str
    kind: str
    fields: list[str]
    features: list[str]
    hidden_size: int
    training: Training

    def describe(self) -> str:
        """The report in words."""
        training = self.training
        clicks, rows = training.validation_clicks, training.validation_rows
        features = [f"{len(self.features)} real-time features"] if self.features else []
        auc, bounds = "undefined (one class only)", None
        if training.validation_auc is not None:
            bounds = auc_interval(training.validation_auc, clicks, rows - clicks)
            auc = f"{training.validation_auc:.4f} (95 %: {bounds[0]:.3f} to {bounds[1]:.3f})"
        lines = [
            f"Trained on {training.rows:,} impressions with {training.clicks:,} clicks from {training.log}.",
            f"Held out the newest {rows:,}, {clicks:,} of them clicked: AUC {auc}, "
            f"log loss {training.validation_log_loss:.5f} after {training.epochs} "
            f"{'rounds' if self.kind == 'trees' else 'epochs'}.",
        ]
        if training.constant:
            lines.append(
                "Every impression gets the same score: nothing that the log says of them helped on what was "
                "held out. Live learning then rests on real-time features alone."
            )
        if bounds is None or bounds[0] <= 0.5 <= bounds[1]:
            lines.append(_cannot_tell(clicks))
        lines += [
            f"Reads {', '.join(self.fields + features)}; {self.hidden_size} hidden units.",
            f"Wrote {self.folder} ({self.kind} trunk {self.trunk_hash[:12]}).",
        ]
        return "\n".join(lines)


def _cannot_tell(clicks: int) -> str:
    """What a reader should make of a figure that chance would give as well."""
    needed = clicks_to_tell()
    text = f"{clicks:,} held-out clicks cannot tell this trunk from one that knows nothing (AUC 0.5)"
    if clicks >= needed:
        return f"{text}: if it knows something, it is worth less than an AUC of {WORTHWHILE_AUC:g}."
    # What is held out is a fixed share of the log.
    size = f", a log with {needed / clicks:,.1f} times the clicks" if clicks else ""
    return (
        f"{text}: to tell an AUC of {WORTHWHILE_AUC:g} takes about {needed:,}{size}. "
        "`surgeline simulate double11` makes one that has enough."
    )


def train_from_log(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    kind: str = "network",
    hidden: int = 0,
    epochs: int = 0,
    seed: int = 0,
    until: int | None = None,
    label_window_s: float = 0.0,
) -> TrainReport:
    """Train on a recorded log (Parquet or JSONL, canonical columns) and write the trunk to ``out``.

    An impression is positive where it has a click at most ``label_window_s`` after it (0: at any time).
    With ``until`` (ms UTC) nothing from that time on is read, clicks included. Raises ``TrainError``.
    """
    if label_window_s < 0.0:
        raise TrainError("the label window must not be negative")
    samples = read_samples(path, until=until, label_window_s=label_window_s)
    options = Options(hidden_size=hidden, epochs=epochs, seed=seed)
    return train_from_samples(samples, out, kind, options, log=Path(path).name, label_window_s=label_window_s)


def train_from_samples(
    samples: Samples,
    out: str | PathLike[str],
    kind: str,
    options: Options,
    *,
    log: str,
    label_window_s: float,
) -> TrainReport:
    """Train on labelled impressions, the features among them, and write the trunk to ``out``.

    ``kind``: one of ``models.deep.load.kinds``. ``log`` and ``label_window_s`` say in the manifest where the
    samples are from. Raises ``TrainError``.
    """
    if kind not in kinds():
        raise TrainError(f"no kind of trunk is called {kind!r}; there are {', '.join(kinds())}")
    if options.hidden_size < 0 or options.epochs < 0:
        raise TrainError("hidden and epochs must not be negative; 0 leaves them to the kind")
    if not samples.clicked.any():
        raise TrainError(f"{log}: none of the {len(samples):,} impressions was clicked; nothing to learn")
    # Imported on demand: torch and LightGBM take seconds and hundreds of MB.
    try:
        trainer = importlib.import_module(f"models.deep.fits.{kind}")
    except (ImportError, OSError) as error:
        # LightGBM's wheel wants the system's OpenMP, and says so as an OSError.
        raise TrainError(f"what trains a trunk of kind {kind} cannot be loaded: {error}") from error
    fitted: Fitted = trainer.fit(samples, options)
    times = np.asarray(samples.columns["event_time"])
    training = Training(
        log=log,
        rows=len(samples),
        clicks=int(samples.clicked.sum()),
        first_event_time=int(times[0]),
        last_event_time=int(times[-1]),
        label_window_s=label_window_s,
        validation_rows=fitted.validation_rows,
        validation_clicks=fitted.validation_clicks,
        validation_auc=fitted.validation_auc,
        validation_log_loss=fitted.validation_log_loss,
        constant=fitted.constant,
        epochs=fitted.epochs,
        seed=options.seed,
        library=fitted.library,
    )
    try:
        manifest = export(fitted, out, training)
    except OSError as error:
        raise TrainError(f"{out}: cannot be written: {error.strerror}") from error
    return TrainReport(
        folder=str(out),
        trunk_hash=manifest.trunk_hash,
        kind=kind,
        fields=manifest.reads.fields,
        features=manifest.reads.features,
        hidden_size=manifest.hidden_size,
        training=training,
    )


def read_samples(
    path: str | PathLike[str], *, until: int | None = None, label_window_s: float = 0.0
) -> Samples:
    """Labelled impressions of a recorded log, in order of time. Raises ``TrainError``."""
    try:
        return _label(_read(Path(path)), path, until, label_window_s)
    except pl.exceptions.PolarsError as error:
        raise TrainError(f"{path}: a column has the wrong type: {error}") from error


def _label(log: pl.DataFrame, path: str | PathLike[str], until: int | None, label_window_s: float) -> Samples:
    missing = [name for name in REQUIRED if name not in log.columns]
    if missing:
        raise TrainError(
            f"{path}: no column {', '.join(missing)}; a recorded log needs {', '.join(REQUIRED)}"
        )
    log = log.with_columns(pl.col("event_time").cast(pl.Int64), pl.col("action").cast(pl.String))
    if until is not None:
        log = log.filter(pl.col("event_time") < until)
    impressions = (
        log.filter(pl.col("event") == "impression")
        .unique("impression_id", keep="first", maintain_order=True)
        .sort("event_time", maintain_order=True)
    )
    if impressions.is_empty():
        raise TrainError(f"{path}: no impressions" + (f" before {until}" if until is not None else ""))
    clicks = (
        log.filter((pl.col("event") == "action") & (pl.col("action") == "click"))
        .group_by("impression_id")
        .agg(pl.col("event_time").min().alias("click_time"))
    )
    impressions = impressions.join(clicks, on="impression_id", how="left", maintain_order="left")
    clicked = impressions["click_time"].is_not_null()
    if label_window_s > 0.0:
        delay = impressions["click_time"] - impressions["event_time"]
        clicked = (delay <= label_window_s * 1000.0).fill_null(False)
    if not clicked.any():
        raise TrainError(
            f"{path}: none of the {len(impressions):,} impressions was clicked; nothing to learn"
        )
    columns: dict[str, list[object] | np.ndarray] = {
        "user_id": impressions["user_id"].fill_null("").to_list(),
        "item_id": impressions["item_id"].fill_null("").to_list(),
        "event_time": impressions["event_time"].to_numpy(),
    }
    for name, (kind, default) in _OPTIONAL.items():
        if name not in impressions.columns:
            impressions = impressions.with_columns(pl.lit(default, dtype=kind).alias(name))
        column = impressions[name].cast(kind).fill_null(default)
        columns[name] = column.to_list() if isinstance(default, str) else column.to_numpy()
    context = impressions.schema.get("context")
    if isinstance(context, pl.Struct) and context.fields:
        # A field that an event leaves out stands as null in the struct of all fields.
        filled = [pl.col("context").struct.field(field.name).fill_null("") for field in context.fields]
        columns["context"] = impressions.select(pl.struct(filled).alias("context"))["context"].to_list()
    return Samples(columns, clicked.to_numpy())


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path, infer_schema_length=None)
        return pl.read_parquet(path)
    except FileNotFoundError as error:
        raise TrainError(f"{path}: no such file") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TrainError(f"{path}: not a Parquet or JSONL log: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("kind", nargs="?", default="network", choices=kinds(), help="kind of trunk")
    parser.add_argument("--log", required=True, help="recorded log, .parquet or .jsonl")
    parser.add_argument("--out", required=True, help="folder to write the trunk to")
    parser.add_argument("--hidden", type=int, default=0, help="size of the last hidden layer")
    parser.add_argument("--epochs", type=int, default=0, help="at most this many; it stops early")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", type=int, default=None, metavar="MS", help="read only what is older")
    parser.add_argument("--label-window-s", type=float, default=0.0, help="0: a click at any time counts")
    given = parser.parse_args(arguments)
    try:
        report = train_from_log(
            given.log,
            given.out,
            kind=given.kind,
            hidden=given.hidden,
            epochs=given.epochs,
            seed=given.seed,
            until=given.until,
            label_window_s=given.label_window_s,
        )
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.describe())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
