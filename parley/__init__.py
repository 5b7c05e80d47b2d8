"""Parley's public face for services: `from parley import Client`, and the contract types that it speaks."""

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
from parley.domain.chat import ChatSession
from parley.domain.costs import BilledAttempt, CostLine, Costs, Disagreement
from parley.domain.errors import (
    IdempotencyConflict,
    InvalidInput,
    JobFailed,
    NotFound,
    ParleyError,
    UnpricedModel,
    Unreachable,
)
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
    from parley.client.client import Client, EnergyBalance
    from parley.client.configuration import ConfigurationReport, WorkspaceConfiguration
    from parley.client.housekeeping import CostAlertReport, EventReport, Housekeeping
    from parley.client.importing import Imported
    from parley.client.jobs import AnalysisHandle, AnalysisReport, AutoAnalyzeHandle, AutoAnalyzeReport
    from parley.client.reports import Reports
    from parley.domain.budgets import CapView, Period
    from parley.settings import Settings

# What connects to Temporal and PostgreSQL is imported on first use: `parley.domain` stays light, also in a workflow.
_LAZY = {
    "AnalysisHandle": "parley.client.jobs",
    "AnalysisReport": "parley.client.jobs",
    "AutoAnalyzeHandle": "parley.client.jobs",
    "AutoAnalyzeReport": "parley.client.jobs",
    "CapView": "parley.domain.budgets",
    "Client": "parley.client.client",
    "ConfigurationReport": "parley.client.configuration",
    "CostAlertReport": "parley.client.housekeeping",
    "EnergyBalance": "parley.client.client",
    "EventReport": "parley.client.housekeeping",
    "Housekeeping": "parley.client.housekeeping",
    "Imported": "parley.client.importing",
    "Period": "parley.domain.budgets",
    "Reports": "parley.client.reports",
    "Settings": "parley.settings",
    "WorkspaceConfiguration": "parley.client.configuration",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "ActionSpend",
    "ActionTokens",
    "Analysis",
    "AnalysisHandle",
    "AnalysisReport",
    "AutoAnalyzeHandle",
    "AutoAnalyzeInput",
    "AutoAnalyzeProgress",
    "AutoAnalyzeReport",
    "BilledAttempt",
    "CachePolicy",
    "Cached",
    "CapView",
    "ChatSession",
    "Client",
    "ConfigurationReport",
    "CostAlertReport",
    "CostLine",
    "Costs",
    "DaySpend",
    "Disagreement",
    "DiscoveryTerms",
    "EnergyBalance",
    "EventReport",
    "Experiments",
    "ExportedSession",
    "Feedback",
    "Finish",
    "GenerateInput",
    "GenerateResult",
    "HealthReport",
    "Housekeeping",
    "IdempotencyConflict",
    "Imported",
    "InvalidInput",
    "JobFailed",
    "LabelCount",
    "Message",
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
