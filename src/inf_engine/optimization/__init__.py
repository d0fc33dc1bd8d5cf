"""Training: losses, backward, optimizers, acceptance, the trainer."""

from inf_engine.demos import Demo, DemoParameter
from inf_engine.optimization.acceptance import Gate, SequentialTest, Verdict
from inf_engine.optimization.adapters import (
    AdapterOptimizer,
    AdapterParameter,
    AdapterStep,
    AdapterUpdate,
)
from inf_engine.optimization.attribution import Attribution, attribute
from inf_engine.optimization.bootstrap import BootstrapDemos
from inf_engine.optimization.choices import ChoiceParameter, ChoiceSearch, TokenCost
from inf_engine.optimization.compaction import Compaction, Omission, compact
from inf_engine.optimization.composite import CompositeLoss
from inf_engine.optimization.constraints import (
    FrozenSpans,
    KeepsFields,
    Matches,
    MaxLength,
    Predicate,
)
from inf_engine.optimization.critic import Critic
from inf_engine.optimization.data import DataLoader, split
from inf_engine.optimization.descent import TextGradientDescent
from inf_engine.optimization.evaluate import Evaluation, evaluate
from inf_engine.optimization.evolution import ReflectiveEvolution
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.human import HumanLoss
from inf_engine.optimization.intervals import Interval
from inf_engine.optimization.joint import JointOptimizer, JointStep, Recurrence
from inf_engine.optimization.judging import LLMJudge
from inf_engine.optimization.loss import Loss, VerifierLoss
from inf_engine.optimization.mlflow import MLflow
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.ranking import ComparisonLoss, RankingLoss
from inf_engine.optimization.rubric import Criterion, RubricLoss
from inf_engine.optimization.schedule import ConstantEdits, CosineEdits, LinearEdits
from inf_engine.optimization.search import Candidate, Rollout, Search
from inf_engine.optimization.tensorboard import TensorBoard
from inf_engine.optimization.trainer import Trainer
from inf_engine.optimization.training_result import TrainingResult

__all__ = [
    "AdapterOptimizer",
    "AdapterParameter",
    "AdapterStep",
    "AdapterUpdate",
    "Attribution",
    "BootstrapDemos",
    "Candidate",
    "ChoiceParameter",
    "ChoiceSearch",
    "Compaction",
    "ComparisonLoss",
    "CompositeLoss",
    "ConstantEdits",
    "CosineEdits",
    "Criterion",
    "Critic",
    "DataLoader",
    "Demo",
    "DemoParameter",
    "Evaluation",
    "Evidence",
    "Feedback",
    "FeedbackBatch",
    "FrozenSpans",
    "Gate",
    "HumanLoss",
    "Interval",
    "JointOptimizer",
    "JointStep",
    "KeepsFields",
    "LLMJudge",
    "LinearEdits",
    "Loss",
    "MLflow",
    "Matches",
    "MaxLength",
    "Note",
    "Omission",
    "Optimizer",
    "Predicate",
    "RankingLoss",
    "Recurrence",
    "ReflectiveEvolution",
    "Rollout",
    "RubricLoss",
    "Search",
    "SequentialTest",
    "TensorBoard",
    "TextGradientDescent",
    "TokenCost",
    "Trainer",
    "TrainingResult",
    "Verdict",
    "VerifierLoss",
    "attribute",
    "compact",
    "evaluate",
    "split",
]
