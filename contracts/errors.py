"""The root of everything that Surgeline raises on purpose.

SurgelineError
├─ BenchError (RuntimeError) - bench._registry
├─ BodyError - clients.http_errors
├─ PortInUseError (OSError) - clients.patience
├─ BrokerRefused (RuntimeError) - clients.refusal
├─ TopicsError (RuntimeError) - clients.topics
├─ ScenarioError (ValueError) - contracts.scenario
│  └─ ConnectionSettingsError - clients.connection
├─ WeightsError (ValueError) - contracts.weights
├─ FeaturesError (ValueError) - features.errors
├─ RowError (ValueError) - features.row_bytes
├─ TrunkError (ValueError) - models.deep.manifest
├─ LearnerStateError (ValueError) - models.online.codec
├─ TrainError (ValueError) - models.train
├─ ReplayError (RuntimeError) - replay.errors
│  ├─ BrokerError - replay.errors
│  ├─ LogError - replay.errors
│  │  ├─ DownloadError - replay.errors
│  │  ├─ LogNotFoundError (ValueError) - replay.errors
│  │  └─ MappingError (ValueError) - replay.errors
│  ├─ PaceError (ValueError) - replay.errors
│  ├─ ConfigError (ValueError) - replay.simulate.config
│  ├─ FaultError (ValueError) - replay.simulate.faults
│  │  └─ ProcessFaultError - replay.process_faults
│  │     ├─ NoPidError - replay.process_faults
│  │     ├─ NoProcessError - replay.process_faults
│  │     ├─ NotPermittedError - replay.process_faults
│  │     └─ UnsupportedPlatformError - replay.process_faults
│  ├─ LiveScorerError - replay.simulate.live
│  ├─ WriterError (RuntimeError) - replay.simulate.parquet
│  └─ RankError (ValueError) - replay.simulate.policy
├─ ServingError - serving.errors
│  ├─ RequestError (ValueError) - serving.errors
│  └─ ScoreNotFiniteError (ArithmeticError) - serving.errors
├─ StateError (RuntimeError) - state.errors
│  ├─ StateDiskError - state.errors
│  ├─ StateFormatError - state.errors
│  │  └─ StateDamagedError - state.errors
│  └─ StateLockedError - state.errors
├─ WebPortError (RuntimeError) - stream.app
├─ BrokenEngineError (RuntimeError) - stream.runtime
├─ ClosedLoopError (RuntimeError) - surgeline.closed_loop.arm
├─ ArmsError (ValueError) - surgeline.closed_loop.command
├─ AnalysisError (ValueError) - surgeline.evaluation.analyse
├─ CadenceError (ValueError) - surgeline.evaluation.cadence
├─ EvaluateError (ValueError) - surgeline.evaluation.evaluate
├─ FeaturesTableError (ValueError) - surgeline.features_table
├─ BrokerError (RuntimeError) - surgeline.local.broker
├─ BrokerUnavailable (RuntimeError) - surgeline.local.broker
├─ DemoError (RuntimeError) - surgeline.local.demo
└─ TimeError (ValueError) - surgeline.times

A built-in error in brackets is a base as well, for whoever catches that; status 2 of the command line is a
ValueError, wrong input, and 1 anything else.
"""

from __future__ import annotations


class SurgelineError(Exception):
    """Base of every typed error of ours: its message is one line for people and says what to do."""
