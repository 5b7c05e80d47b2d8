"""Parley's public API for services: the clients, the types of their arguments and results, and the errors.

`GENERATE_WORKFLOW` and `WORKFLOW_TASK_QUEUE` are for a service's own workflow that runs `Generate` as a child, with a
`GenerateInput` that it answers with a `GenerateResult`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parley.domain.auto_analyze.contract import (
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    DiscoveryTerms,
    ExportedSession,
    LabelCount,
    Statistics,
)
from parley.domain.budgets import CapView, Period
from parley.domain.chat import ChatSession
from parley.domain.costs import BilledAttempt, Correction, CostLine, Costs, Disagreement
from parley.domain.errors import (
    ErrorKind,
    IdempotencyConflict,
    InvalidInput,
    JobFailed,
    NotFound,
    ParleyError,
    UnpricedModel,
    Unreachable,
)
from parley.domain.generate.contract import WORKFLOW as GENERATE_WORKFLOW
from parley.domain.generate.contract import (
    Cached,
    CachePolicy,
    GenerateInput,
    GenerateResult,
    Meta,
    OnRateLimit,
    Prompt,
    Refusal,
    Refused,
)
from parley.domain.health import HealthReport
from parley.domain.housekeeping import RefillReport
from parley.domain.queues import WORKFLOWS as WORKFLOW_TASK_QUEUE
from parley.domain.recommendations import Recommendation
from parley.domain.reports import (
    ActionSpend,
    ActionTokens,
    DaySpend,
    Experiments,
    Feedback,
    ModelReport,
    Report,
    SpendReport,
    Summary,
    UserReport,
    WeekSpend,
)
from parley.domain.requests import Finish, Message, Provider, Usage
from parley.domain.session import Session, Turn, Word
from parley.domain.session_analysis import Analysis, Progress, SessionAnalysisInput, SessionAnalysisResult, Strategy

if TYPE_CHECKING:
    from parley.client.auto_analyze import AutoAnalyzeHandle, AutoAnalyzeOptions, AutoAnalyzeReport
    from parley.client.backend import Backend
    from parley.client.client import Client, EnergyBalance
    from parley.client.configuration import ConfigurationReport, WorkspaceConfiguration
    from parley.client.generate import GenerateOptions, Messages
    from parley.client.housekeeping import CostAlertReport, EventReport, Housekeeping
    from parley.client.importing import Imported, Skipped
    from parley.client.reports import Reports
    from parley.client.session_analysis import AnalysisHandle, AnalysisReport
    from parley.settings import Settings

# What connects to Temporal and PostgreSQL is imported on first use: `parley.domain` stays light, also in a workflow.
_LAZY = {
    "AnalysisHandle": "parley.client.session_analysis",
    "AnalysisReport": "parley.client.session_analysis",
    "AutoAnalyzeHandle": "parley.client.auto_analyze",
    "AutoAnalyzeOptions": "parley.client.auto_analyze",
    "AutoAnalyzeReport": "parley.client.auto_analyze",
    "Backend": "parley.client.backend",
    "Client": "parley.client.client",
    "ConfigurationReport": "parley.client.configuration",
    "CostAlertReport": "parley.client.housekeeping",
    "EnergyBalance": "parley.client.client",
    "EventReport": "parley.client.housekeeping",
    "GenerateOptions": "parley.client.generate",
    "Housekeeping": "parley.client.housekeeping",
    "Imported": "parley.client.importing",
    "Messages": "parley.client.generate",
    "Reports": "parley.client.reports",
    "Settings": "parley.settings",
    "Skipped": "parley.client.importing",
    "WorkspaceConfiguration": "parley.client.configuration",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "GENERATE_WORKFLOW",
    "WORKFLOW_TASK_QUEUE",
    "ActionSpend",
    "ActionTokens",
    "Analysis",
    "AnalysisHandle",
    "AnalysisReport",
    "AutoAnalyzeHandle",
    "AutoAnalyzeInput",
    "AutoAnalyzeOptions",
    "AutoAnalyzeProgress",
    "AutoAnalyzeReport",
    "Backend",
    "BilledAttempt",
    "CachePolicy",
    "Cached",
    "CapView",
    "ChatSession",
    "Client",
    "ConfigurationReport",
    "Correction",
    "CostAlertReport",
    "CostLine",
    "Costs",
    "DaySpend",
    "Disagreement",
    "DiscoveryTerms",
    "EnergyBalance",
    "ErrorKind",
    "EventReport",
    "Experiments",
    "ExportedSession",
    "Feedback",
    "Finish",
    "GenerateInput",
    "GenerateOptions",
    "GenerateResult",
    "HealthReport",
    "Housekeeping",
    "IdempotencyConflict",
    "Imported",
    "InvalidInput",
    "JobFailed",
    "LabelCount",
    "Message",
    "Messages",
    "Meta",
    "ModelReport",
    "NotFound",
    "OnRateLimit",
    "ParleyError",
    "Period",
    "Progress",
    "Prompt",
    "Provider",
    "Recommendation",
    "RefillReport",
    "Refusal",
    "Refused",
    "Report",
    "Reports",
    "Session",
    "SessionAnalysisInput",
    "SessionAnalysisResult",
    "Settings",
    "Skipped",
    "SpendReport",
    "Statistics",
    "Strategy",
    "Summary",
    "Turn",
    "UnpricedModel",
    "Unreachable",
    "Usage",
    "UserReport",
    "WeekSpend",
    "Word",
    "WorkspaceConfiguration",
]
