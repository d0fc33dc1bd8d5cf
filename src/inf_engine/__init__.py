"""A pipeline of LLM calls is a network: write, run and train it as a module."""

import logging

import inf_engine.startup  # noqa: F401 - first, see there
from inf_engine.containers import (
    ModuleDict,
    ModuleList,
    ParameterDict,
    ParameterList,
    Sequential,
)
from inf_engine.errors import (
    ActorLostError,
    AnswerError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    CriticError,
    DeadlineError,
    EndpointConnectionError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
    EngineStateError,
    ExecutionError,
    GraphError,
    InfEngineError,
    JournalError,
    LossError,
    MalformedResponseError,
    MissingKeyError,
    ModuleError,
    NotBoundError,
    OutputParseError,
    ParameterError,
    ParameterTypeError,
    ParameterValueError,
    ProposalError,
    RateLimitError,
    RequestRefusedError,
    SchemaError,
    StateDictError,
    ToolArgumentError,
    ToolLoopError,
    TracingError,
    TrainingError,
    UnknownAliasError,
    UsageError,
)
from inf_engine.execution.batch import Result
from inf_engine.execution.engine import Engine
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.functional import op
from inf_engine.graph import GraphNode, InferenceGraph
from inf_engine.images import Image
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter
from inf_engine.record import RunRecord
from inf_engine.resources.budget import Budget
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.retry import RetryPolicy
from inf_engine.tracing.proxy import Proxy
from inf_engine.tracing.symbolic import trace
from inf_engine.types import LLMRequest, LLMResponse

__all__ = [
    "ActorLostError",
    "AnswerError",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "ConfigurationError",
    "CriticError",
    "DeadlineError",
    "EndpointConfig",
    "EndpointConnectionError",
    "EndpointError",
    "EndpointServerError",
    "EndpointTimeoutError",
    "Engine",
    "EngineStateError",
    "ExecutionError",
    "ExecutionSettings",
    "GraphError",
    "GraphNode",
    "Image",
    "InfEngineError",
    "InferenceGraph",
    "InferenceModule",
    "JournalError",
    "LLMInference",
    "LLMRequest",
    "LLMResponse",
    "LossError",
    "MalformedResponseError",
    "MissingKeyError",
    "ModuleDict",
    "ModuleError",
    "ModuleList",
    "NotBoundError",
    "OutputParseError",
    "Parameter",
    "ParameterDict",
    "ParameterError",
    "ParameterList",
    "ParameterTypeError",
    "ParameterValueError",
    "ProposalError",
    "Proxy",
    "RateLimitError",
    "RequestRefusedError",
    "ResourceConfig",
    "Result",
    "RetryPolicy",
    "RunRecord",
    "SchemaError",
    "Sequential",
    "StateDictError",
    "ToolArgumentError",
    "ToolLoopError",
    "TracingError",
    "TrainingError",
    "UnknownAliasError",
    "UsageError",
    "op",
    "trace",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
