"""The panel: all learners of one task side by side, judged on the same samples before they learn them.

Not safe to share between threads: the worker calls it from one. Results depend on the number of BLAS
threads; the engine limits them to one, so that a state does not depend on the machine's core count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.weights import Head, LearnerMetrics
from models.deep.trunk import Trunk
from models.online.base import Learner
from models.online.bayes import BayesianLogistic
from models.online.codec import FloatArray, LearnerStateError, decode_state, encode_state
from models.online.frozen import FrozenHead
from models.online.ftrl import Ftrl
from models.online.metrics import ProgressiveMetrics
from models.online.posterior import to_head
from models.online.worth import WorthMeter

_KIND, _VERSION = "panel", 2

#: Features and hidden units are of order one; nothing honest comes near this.
LARGEST = 1e4

Float32Array = npt.NDArray[np.float32]


class Panel:
    """Learners "frozen", "last_layer" (the one that is published), "ftrl" and "river_<name>".

    All see ``z`` (n, p) = [bias = 1 | hidden (d) | real-time features (q)]; River learners read the
    real-time features only. ``last_layer`` starts from the frozen head with ``prior_precision`` on bias
    and hidden weights, and from zero with ``feature_prior_precision`` on real-time features. What the trunk's
    training told of them comes on top, at ``trunk_evidence`` of its weight. ``last_layer`` keeps
    ``forgetting_per_tick`` of what it learned every tick. ``neutral`` (q,): what a real-time feature is in
    ``z`` where nothing is known; zero where it is not given. ``worth`` tells what each feature is worth to
    ``last_layer``; it is not part of the state.
    """

    def __init__(
        self,
        trunk: Trunk,
        rt_feature_names: Sequence[str],
        prior_precision: float,
        feature_prior_precision: float,
        trunk_evidence: float,
        forgetting_per_tick: float,
        river: Sequence[str] = (),
        river_samples_per_tick: int = 50,
        neutral: Float32Array | None = None,
    ) -> None:
        d, q = trunk.hidden_size, len(rt_feature_names)
        self.feature_names = ["bias", *(f"hidden_{k}" for k in range(d)), *rt_feature_names]
        self._hidden_size = d
        frozen = np.concatenate([[trunk.head_bias], trunk.head_weight, np.zeros(q)])
        precision = np.diag(np.repeat([prior_precision, feature_prior_precision], [1 + d, q]))
        # A trunk that reads no features says nothing of their weights.
        told = len(trunk.head_evidence)
        precision[:told, :told] += trunk_evidence * trunk.head_evidence
        self.champion = BayesianLogistic(frozen, precision, forgetting_per_tick)
        self._learners: list[Learner] = [FrozenHead(frozen), self.champion, Ftrl(frozen)]
        if river:
            # Imported on demand: serving builds no panel, and a worker without River need not pay for it.
            from models.online.river_learner import river_learner

            self._learners += [
                river_learner(name, rt_feature_names, river_samples_per_tick) for name in river
            ]
        self.learner_names = [learner.name for learner in self._learners]
        self._metrics = ProgressiveMetrics(learners=len(self._learners))
        unknown = np.zeros(q) if neutral is None else neutral.astype(np.float64)
        self.worth = WorthMeter(rt_feature_names, 1 + d, unknown)
        self.samples = 0
        self._unusable = 0

    def assemble(self, hidden: Float32Array, rt: Float32Array) -> Float32Array:
        """``z`` (n, p) float32, C-contiguous, from ``hidden`` (n, d) and real-time features (n, q)."""
        z = np.empty((len(hidden), len(self.feature_names)), dtype=np.float32)
        z[:, 0] = 1.0
        z[:, 1 : 1 + self._hidden_size] = hidden
        z[:, 1 + self._hidden_size :] = rt
        return z

    def predict(self, z: Float32Array) -> Float32Array:
        """Probabilities (n, K) in the order of ``learner_names``, made when the impression is seen."""
        predictions = np.empty((len(z), len(self._learners)), dtype=np.float32)
        wide = z.astype(np.float64)
        for k, learner in enumerate(self._learners):
            predictions[:, k] = learner.predict(wide)
        return predictions

    def learn(self, z: Float32Array, y: FloatArray, predictions: Float32Array, elapsed_ticks: int) -> None:
        """One tick: judge ``predictions`` (n, K), made before, then let every learner learn.

        Rows with a value that is not finite or beyond ``LARGEST`` would poison a state for good (features
        may come logged by others): they are dropped and counted.
        """
        wide = z.astype(np.float64)
        # NaN fails both comparisons; two passes over float32 cost a third of abs().max() over float64.
        if not (z.max(initial=0.0) <= LARGEST and z.min(initial=0.0) >= -LARGEST):
            good = (np.abs(wide) <= LARGEST).all(axis=1)
            self._unusable += int(len(y) - good.sum())
            wide, y, predictions = wide[good], y[good], predictions[good]
        self._metrics.update(predictions, y, elapsed_ticks)
        self.worth.see(wide, y, self.champion.mean)
        for learner in self._learners:
            learner.learn(wide, y, elapsed_ticks)
        self.samples += len(y)

    def head(self) -> Head:
        """The champion's posterior, as it is published."""
        return to_head(self.champion.posterior())

    def metrics(self) -> dict[str, LearnerMetrics]:
        """Progressive figures of every learner since the start."""
        return {name: self._metrics.summary(k) for k, name in enumerate(self.learner_names)}

    def window_metrics(self) -> dict[str, LearnerMetrics]:
        """Progressive figures of every learner over the last ten minutes of ticks."""
        return {name: self._metrics.window_summary(k) for k, name in enumerate(self.learner_names)}

    @property
    def skipped(self) -> dict[str, int]:
        """Samples that were not learned from, by learner; "unusable" for rows that none took."""
        skipped = {"unusable": self._unusable}
        for learner in self._learners:
            if hasattr(learner, "skipped"):
                skipped[learner.name] = learner.skipped
        return skipped

    def state_bytes(self) -> bytes:
        """Everything that ``learn`` changes; ``load_state`` continues bit for bit."""
        values: dict[str, int | float | str] = {"samples": self.samples, "unusable": self._unusable}
        values["features"] = "\n".join(self.feature_names)
        values["learners"] = "\n".join(self.learner_names)
        parts = {f"learner.{learner.name}": learner.state_bytes() for learner in self._learners}
        parts["metrics"] = self._metrics.state_bytes()
        return encode_state(_KIND, _VERSION, values, {}, parts)

    def load_state(self, data: bytes) -> None:
        """Raises ``LearnerStateError`` where the state is of other features, learners or another trunk.

        Use the panel no further after that: some learners may have taken up their part.
        """
        state = decode_state(data, _KIND, _VERSION)
        for what, names in (("features", self.feature_names), ("learners", self.learner_names)):
            saved = state.text(what).split("\n")
            if saved != names:
                changed = sorted(set(saved) ^ set(names)) or ["their order"]
                raise LearnerStateError(f"panel state: other {what} than this panel's: {', '.join(changed)}")
        for learner in self._learners:
            learner.load_state(state.part(f"learner.{learner.name}"))
        self._metrics.load_state(state.part("metrics"))
        self.samples, self._unusable = state.integer("samples"), state.integer("unusable")

    def digest(self) -> str:
        """sha256 (hex) over what the learners have learned; figures about them do not enter."""
        digest = hashlib.sha256()
        for learner in self._learners:
            digest.update(learner.state_bytes())
        return digest.hexdigest()
