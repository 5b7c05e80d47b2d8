"""Parley's public face for services: `from parley import Client`, and the contract types that it speaks."""

from domain.auto_analyze.contract import (
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    DiscoveryTerms,
    ExportedSession,
    LabelCount,
    Statistics,
)
from domain.calls import Message, Provider
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
from domain.generate.contract import GenerateInput, GenerateResult
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
    "ModelReport",
    "NotFound",
    "ParleyError",
    "Period",
    "Progress",
    "Provider",
    "Recommendation",
    "RefillReport",
    "Report",
    "Reports",
    "Session",
    "SessionAnalysisInput",
    "SessionAnalysisResult",
    "SpendReport",
    "Statistics",
    "Strategy",
    "Summary",
    "Turn",
    "UnpricedModel",
    "Unreachable",
    "UserReport",
    "WeekSpend",
    "Word",
    "WorkspaceConfiguration",
]
