"""Train a trunk on labelled impressions, and say how it did."""

from __future__ import annotations

import importlib
from os import PathLike
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import SurgelineError
from models.deep.chance import WORTHWHILE_AUC, auc_interval, clicks_to_tell
from models.deep.evidence import head_evidence
from models.deep.fitted import Fitted, Options, export, manifest_of
from models.deep.load import build, kinds
from models.deep.manifest import Training
from models.deep.samples import Samples
from models.deep.trunk import EVIDENCE


class TrainError(SurgelineError, ValueError):
    """The log cannot be trained on; the message says what is missing."""


class TrainReport(msgspec.Struct, kw_only=True, frozen=True):
    """Where the trunk was written, its hash, what it reads and how it did.

    ``late_actions``: of the log, those that came after their impression's label had closed.
    """

    folder: str
    trunk_hash: str
    kind: str
    fields: list[str]
    features: list[str]
    hidden_size: int
    training: Training
    late_actions: int = 0

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
        if self.late_actions:
            lines.append(
                f"{self.late_actions:,} actions came later than the label window of "
                f"{training.label_window_s:g} s, and clicks among them do not count; times.label_window_s in "
                "the scenario is for training and the worker."
            )
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
    trunk = build(manifest_of(fitted, ""), fitted.tensors, Path(out))
    fitted.tensors[EVIDENCE] = head_evidence(trunk, samples).astype(np.float32)
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
