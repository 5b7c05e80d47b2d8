"""Parley's public face for services: `from parley import Client`, and the contract types that it speaks."""

from domain.auto_analyze.contract import (
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    DiscoveryTerms,
    ExportedSession,
    LabelCount,
    Statistics,
)
from domain.calls import Finish, Message, Provider, Usage
from domain.chat import ChatSession
from domain.costs import BilledCall, CostLine, Costs, Disagreement
from domain.errors import (
    IdempotencyConflict,
    InvalidInput,
    JobFailed,
    NotFound,
    ParleyError,
    UnpricedModel,
    Unreachable,
)
from domain.generate.contract import (
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
from domain.health import HealthReport
from domain.housekeeping import RefillReport
from domain.recommendations import Recommendation
from domain.reports import (
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
from domain.session import Session, Turn, Word
from domain.session_analysis import Analysis, Progress, SessionAnalysisInput, SessionAnalysisResult, Strategy
from settings import Settings
from starter.client import Client, EnergyBalance
from starter.configuration import ConfigurationReport, WorkspaceConfiguration
from starter.housekeeping import CostAlertReport, EventReport, Housekeeping
from starter.importing import Imported
from starter.jobs import AnalysisHandle, AnalysisReport, AutoAnalyzeHandle, AutoAnalyzeReport
from starter.reports import Reports
from storage.budgets import CapView, Period

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
    "BilledCall",
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
