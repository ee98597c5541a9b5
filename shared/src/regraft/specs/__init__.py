"""The job specification and the tasks that stages are given: frozen, checked, self-describing."""

from regraft.specs.base import Spec
from regraft.specs.dataset import DatasetSpec, ValidationSpec
from regraft.specs.job import BaseCheckpointSpec, JobSpec, OutputSpec
from regraft.specs.model import DropoutSpec, LossSpec
from regraft.specs.monitoring import CheckpointSpec, EarlyStoppingSpec, EvaluationSpec, LossSpikeSpec
from regraft.specs.optimizer import OptimizerSpec
from regraft.specs.presets import SchedulePreset
from regraft.specs.schedule import ConstantSchedule, CosineSchedule, LinearSchedule, SchedulePart
from regraft.specs.stages import (
    AttemptRef,
    ConvertResult,
    ConvertTask,
    EvaluateResult,
    EvaluateTask,
    ExportResult,
    ExportTask,
    PreflightResult,
    PreflightTask,
    PrepareResult,
    PrepareTask,
    Scores,
    TrainResult,
    TrainTask,
)
from regraft.specs.target import AnyTarget, CerebrasTargetSpec, TargetSpec
from regraft.specs.training import MixturePart, TrainingSpec

__all__ = [
    "AnyTarget",
    "AttemptRef",
    "BaseCheckpointSpec",
    "CerebrasTargetSpec",
    "CheckpointSpec",
    "ConstantSchedule",
    "ConvertResult",
    "ConvertTask",
    "CosineSchedule",
    "DatasetSpec",
    "DropoutSpec",
    "EarlyStoppingSpec",
    "EvaluateResult",
    "EvaluateTask",
    "EvaluationSpec",
    "ExportResult",
    "ExportTask",
    "JobSpec",
    "LinearSchedule",
    "LossSpec",
    "LossSpikeSpec",
    "MixturePart",
    "OptimizerSpec",
    "OutputSpec",
    "PreflightResult",
    "PreflightTask",
    "PrepareResult",
    "PrepareTask",
    "SchedulePart",
    "SchedulePreset",
    "Scores",
    "Spec",
    "TargetSpec",
    "TrainResult",
    "TrainTask",
    "TrainingSpec",
    "ValidationSpec",
]
