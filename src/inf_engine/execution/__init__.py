"""Execution: the bridge between what a trace recorded and what answers it."""

from inf_engine.execution.batch import Result
from inf_engine.execution.engine import Engine
from inf_engine.execution.scheduler import Scheduler
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.execution.state import ExecutionState, NodeState

__all__ = [
    "Engine",
    "ExecutionSettings",
    "ExecutionState",
    "NodeState",
    "Result",
    "Scheduler",
]
