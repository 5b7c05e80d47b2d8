"""Parley's public API for services: the clients, the types of their arguments and results, and the errors.

`GENERATE_WORKFLOW` and `WORKFLOW_TASK_QUEUE` are for a service's own workflow that runs `Generate` as a child, with a
`GenerateInput` that it answers with a `GenerateResult`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parley.client.attempts import AttemptReport, JobAttempts
    from parley.client.auto_analyze import AutoAnalyzeHandle, AutoAnalyzeOptions, AutoAnalyzeReport
    from parley.client.backend import Backend
    from parley.client.client import Client, EnergyBalance
    from parley.client.configuration import ConfigurationReport, WorkspaceConfiguration
    from parley.client.conversation import ConversationHandle
    from parley.client.conversations import ListedConversation
    from parley.client.gateway_keys import GatewayKeys
    from parley.client.generate import GenerateOptions, Messages, TurnOptions
    from parley.client.generation import GenerationHandle, GenerationReport
    from parley.client.housekeeping import CostAlertReport, EventReport, Housekeeping
    from parley.client.importing import Imported, ReadingOptions, Skipped
    from parley.client.knowledge import Knowledge
    from parley.client.label_files import read_labels
    from parley.client.label_maps import LabelMaps
    from parley.client.listing import JobPage, JobSummary
    from parley.client.memory import UserMemory
    from parley.client.optimizing import Optimized
    from parley.client.phone import Phone
    from parley.client.reports import Reports
    from parley.client.session_analysis import AnalysisHandle, AnalysisReport, HearingOptions, RecordingPart
    from parley.client.streaming import GenerateStream
    from parley.domain.auto_analyze.comparison import DifferingSession, PairOfLabels, RunComparison, RunSide
    from parley.domain.auto_analyze.consistency import Consistency
    from parley.domain.auto_analyze.contract import (
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        DiscoveryTerms,
        ExportedSession,
        LabelCount,
        LabelKind,
        LabelledChat,
        LabelOrigin,
        MergeStep,
        RunControls,
        Statistics,
    )
    from parley.domain.auto_analyze.drift import KindDrift, LabelChange, LabelDrift, LabelTrend
    from parley.domain.auto_analyze.estimate import RunEstimate
    from parley.domain.auto_analyze.label_maps import (
        CanonicalLabel,
        LabelMapVersion,
        LabelMapView,
        LabelPair,
        MapAction,
        MergedBy,
        MergedLabel,
    )
    from parley.domain.auto_analyze.overview import (
        EarlierRun,
        Flow,
        NewLabels,
        PhaseCost,
        QuotedSession,
        RunOverview,
    )
    from parley.domain.auto_analyze.processing import BatchFigures
    from parley.domain.auto_analyze.taxonomy import GivenLabel, Taxonomy
    from parley.domain.budgets import CapView, Period
    from parley.domain.chat import ChatSession
    from parley.domain.chat_formats import ChatFormat, ChatRole
    from parley.domain.coaching.rubric import Rubric, RubricSkill
    from parley.domain.conversation.contract import (
        ConversationCost,
        ConversationExport,
        ConversationState,
        Ended,
        TurnReport,
        TurnResult,
    )
    from parley.domain.conversation.memory import Memory
    from parley.domain.costs import BilledAttempt, Correction, CostLine, Costs, Disagreement
    from parley.domain.errors import (
        ConversationBusy,
        ConversationClosed,
        ErrorKind,
        IdempotencyConflict,
        InvalidInput,
        JobFailed,
        LabelsChanged,
        MemoryChanged,
        NotFound,
        ParleyError,
        UnpricedModel,
        Unreachable,
    )
    from parley.domain.gateway_keys import GatewayKey, NewGatewayKey, Scope
    from parley.domain.generate.contract import WORKFLOW as GENERATE_WORKFLOW
    from parley.domain.generate.contract import (
        Cached,
        CachePolicy,
        GenerateInput,
        GenerateResult,
        Meta,
        Mode,
        OnRateLimit,
        Prompt,
        Refusal,
        Refused,
    )
    from parley.domain.health import HealthReport
    from parley.domain.hearing import Transcript
    from parley.domain.housekeeping import RefillReport
    from parley.domain.knowledge import (
        AddedDocument,
        AddOutcome,
        DocumentKind,
        KnowledgeDocument,
        KnowledgePassage,
        KnowledgeUsed,
    )
    from parley.domain.phone.contract import CallStatus, PhoneCallReport, PhoneNumber, PhoneTurn
    from parley.domain.phone.settings import (
        AnswerTemplate,
        Deadlines,
        Digits,
        KeyAction,
        NumberSettings,
        PhoneLimits,
        Phrases,
        SpokenLanguage,
    )
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
        TimeSeries,
        UserReport,
        WeekSpend,
    )
    from parley.domain.requests import (
        Finish,
        ImagePart,
        Message,
        NamedTool,
        Provider,
        TextPart,
        Tool,
        ToolCall,
        ToolChoice,
        Usage,
    )
    from parley.domain.session import Session, Turn, Word
    from parley.domain.session_analysis import Analysis, Progress, SessionAnalysisInput, SessionAnalysisResult, Strategy
    from parley.domain.streaming import StreamTarget, TextDelta, ToolCallDelta
    from parley.settings import Settings
    from parley.streams.hub import StreamReceiver

# Every name is imported on first use: `import parley` takes no time, and what connects to Temporal and PostgreSQL is
# never loaded in a workflow.
_MODULES = {
    "parley.client.attempts": ("AttemptReport", "JobAttempts"),
    "parley.client.auto_analyze": ("AutoAnalyzeHandle", "AutoAnalyzeOptions", "AutoAnalyzeReport"),
    "parley.client.backend": ("Backend",),
    "parley.client.client": ("Client", "EnergyBalance"),
    "parley.client.configuration": ("ConfigurationReport", "WorkspaceConfiguration"),
    "parley.client.conversation": ("ConversationHandle",),
    "parley.client.conversations": ("ListedConversation",),
    "parley.client.gateway_keys": ("GatewayKeys",),
    "parley.client.generate": ("GenerateOptions", "Messages", "TurnOptions"),
    "parley.client.generation": ("GenerationHandle", "GenerationReport"),
    "parley.client.housekeeping": ("CostAlertReport", "EventReport", "Housekeeping"),
    "parley.client.importing": ("Imported", "ReadingOptions", "Skipped"),
    "parley.client.label_files": ("read_labels",),
    "parley.client.listing": ("JobPage", "JobSummary"),
    "parley.client.knowledge": ("Knowledge",),
    "parley.client.label_maps": ("LabelMaps",),
    "parley.client.memory": ("UserMemory",),
    "parley.client.optimizing": ("Optimized",),
    "parley.client.phone": ("Phone",),
    "parley.client.reports": ("Reports",),
    "parley.client.session_analysis": ("AnalysisHandle", "AnalysisReport", "HearingOptions", "RecordingPart"),
    "parley.domain.hearing": ("Transcript",),
    "parley.client.streaming": ("GenerateStream",),
    "parley.domain.auto_analyze.contract": (
        "AutoAnalyzeInput",
        "AutoAnalyzeProgress",
        "RunControls",
        "DiscoveryTerms",
        "ExportedSession",
        "LabelCount",
        "LabelKind",
        "LabelOrigin",
        "LabelledChat",
        "MergeStep",
        "Statistics",
    ),
    "parley.domain.auto_analyze.comparison": ("DifferingSession", "PairOfLabels", "RunComparison", "RunSide"),
    "parley.domain.auto_analyze.consistency": ("Consistency",),
    "parley.domain.auto_analyze.drift": ("KindDrift", "LabelChange", "LabelDrift", "LabelTrend"),
    "parley.domain.auto_analyze.processing": ("BatchFigures",),
    "parley.domain.auto_analyze.estimate": ("RunEstimate",),
    "parley.domain.auto_analyze.label_maps": (
        "CanonicalLabel",
        "LabelMapVersion",
        "LabelMapView",
        "LabelPair",
        "MapAction",
        "MergedBy",
        "MergedLabel",
    ),
    "parley.domain.auto_analyze.overview": (
        "EarlierRun",
        "Flow",
        "NewLabels",
        "PhaseCost",
        "QuotedSession",
        "RunOverview",
    ),
    "parley.domain.auto_analyze.taxonomy": ("GivenLabel", "Taxonomy"),
    "parley.domain.budgets": ("CapView", "Period"),
    "parley.domain.chat": ("ChatSession",),
    "parley.domain.chat_formats": ("ChatFormat", "ChatRole"),
    "parley.domain.coaching.rubric": ("Rubric", "RubricSkill"),
    "parley.domain.conversation.contract": (
        "ConversationCost",
        "ConversationExport",
        "ConversationState",
        "Ended",
        "TurnReport",
        "TurnResult",
    ),
    "parley.domain.conversation.memory": ("Memory",),
    "parley.domain.costs": ("BilledAttempt", "Correction", "CostLine", "Costs", "Disagreement"),
    "parley.domain.errors": (
        "ConversationBusy",
        "ConversationClosed",
        "ErrorKind",
        "IdempotencyConflict",
        "InvalidInput",
        "JobFailed",
        "LabelsChanged",
        "MemoryChanged",
        "NotFound",
        "ParleyError",
        "UnpricedModel",
        "Unreachable",
    ),
    "parley.domain.gateway_keys": ("GatewayKey", "NewGatewayKey", "Scope"),
    "parley.domain.generate.contract": (
        "CachePolicy",
        "Cached",
        "GENERATE_WORKFLOW",
        "GenerateInput",
        "GenerateResult",
        "Meta",
        "Mode",
        "OnRateLimit",
        "Prompt",
        "Refusal",
        "Refused",
    ),
    "parley.domain.health": ("HealthReport",),
    "parley.domain.housekeeping": ("RefillReport",),
    "parley.domain.knowledge": (
        "AddOutcome",
        "AddedDocument",
        "DocumentKind",
        "KnowledgeDocument",
        "KnowledgePassage",
        "KnowledgeUsed",
    ),
    "parley.domain.queues": ("WORKFLOW_TASK_QUEUE",),
    "parley.domain.recommendations": ("Recommendation",),
    "parley.domain.phone.contract": ("CallStatus", "PhoneCallReport", "PhoneNumber", "PhoneTurn"),
    "parley.domain.phone.settings": (
        "AnswerTemplate",
        "Deadlines",
        "Digits",
        "KeyAction",
        "NumberSettings",
        "PhoneLimits",
        "Phrases",
        "SpokenLanguage",
    ),
    "parley.domain.reports": (
        "ActionSpend",
        "ActionTokens",
        "DaySpend",
        "Experiments",
        "Feedback",
        "ModelReport",
        "Report",
        "SpendReport",
        "Summary",
        "TimeSeries",
        "UserReport",
        "WeekSpend",
    ),
    "parley.domain.requests": (
        "Finish",
        "ImagePart",
        "Message",
        "NamedTool",
        "Provider",
        "TextPart",
        "Tool",
        "ToolCall",
        "ToolChoice",
        "Usage",
    ),
    "parley.domain.session": ("Session", "Turn", "Word"),
    "parley.domain.session_analysis": (
        "Analysis",
        "Progress",
        "SessionAnalysisInput",
        "SessionAnalysisResult",
        "Strategy",
    ),
    "parley.domain.streaming": ("StreamTarget", "TextDelta", "ToolCallDelta"),
    "parley.settings": ("Settings",),
    "parley.streams.hub": ("StreamReceiver",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
# Names that are shorter in their modules.
_SHORT = {"GENERATE_WORKFLOW": "WORKFLOW", "WORKFLOW_TASK_QUEUE": "WORKFLOWS"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULE_OF[name]), _SHORT.get(name, name))
    return found


__all__ = [
    "GENERATE_WORKFLOW",
    "WORKFLOW_TASK_QUEUE",
    "ActionSpend",
    "ActionTokens",
    "AddOutcome",
    "AddedDocument",
    "Analysis",
    "AnalysisHandle",
    "AnalysisReport",
    "AnswerTemplate",
    "AttemptReport",
    "AutoAnalyzeHandle",
    "AutoAnalyzeInput",
    "AutoAnalyzeOptions",
    "AutoAnalyzeProgress",
    "AutoAnalyzeReport",
    "Backend",
    "BatchFigures",
    "BilledAttempt",
    "CachePolicy",
    "Cached",
    "CallStatus",
    "CanonicalLabel",
    "CapView",
    "ChatFormat",
    "ChatRole",
    "ChatSession",
    "Client",
    "ConfigurationReport",
    "Consistency",
    "ConversationBusy",
    "ConversationClosed",
    "ConversationCost",
    "ConversationExport",
    "ConversationHandle",
    "ConversationState",
    "Correction",
    "CostAlertReport",
    "CostLine",
    "Costs",
    "DaySpend",
    "Deadlines",
    "DifferingSession",
    "Digits",
    "Disagreement",
    "DiscoveryTerms",
    "DocumentKind",
    "EarlierRun",
    "Ended",
    "EnergyBalance",
    "ErrorKind",
    "EventReport",
    "Experiments",
    "ExportedSession",
    "Feedback",
    "Finish",
    "Flow",
    "GatewayKey",
    "GatewayKeys",
    "GenerateInput",
    "GenerateOptions",
    "GenerateResult",
    "GenerateStream",
    "GenerationHandle",
    "GenerationReport",
    "GivenLabel",
    "HealthReport",
    "HearingOptions",
    "Housekeeping",
    "IdempotencyConflict",
    "ImagePart",
    "Imported",
    "InvalidInput",
    "JobAttempts",
    "JobFailed",
    "JobPage",
    "JobSummary",
    "KeyAction",
    "KindDrift",
    "Knowledge",
    "KnowledgeDocument",
    "KnowledgePassage",
    "KnowledgeUsed",
    "LabelChange",
    "LabelCount",
    "LabelDrift",
    "LabelKind",
    "LabelMapVersion",
    "LabelMapView",
    "LabelMaps",
    "LabelOrigin",
    "LabelPair",
    "LabelTrend",
    "LabelledChat",
    "LabelsChanged",
    "ListedConversation",
    "MapAction",
    "Memory",
    "MemoryChanged",
    "MergeStep",
    "MergedBy",
    "MergedLabel",
    "Message",
    "Messages",
    "Meta",
    "Mode",
    "ModelReport",
    "NamedTool",
    "NewGatewayKey",
    "NewLabels",
    "NotFound",
    "NumberSettings",
    "OnRateLimit",
    "Optimized",
    "PairOfLabels",
    "ParleyError",
    "Period",
    "PhaseCost",
    "Phone",
    "PhoneCallReport",
    "PhoneLimits",
    "PhoneNumber",
    "PhoneTurn",
    "Phrases",
    "Progress",
    "Prompt",
    "Provider",
    "QuotedSession",
    "ReadingOptions",
    "Recommendation",
    "RecordingPart",
    "RefillReport",
    "Refusal",
    "Refused",
    "Report",
    "Reports",
    "Rubric",
    "RubricSkill",
    "RunComparison",
    "RunControls",
    "RunEstimate",
    "RunOverview",
    "RunSide",
    "Scope",
    "Session",
    "SessionAnalysisInput",
    "SessionAnalysisResult",
    "Settings",
    "Skipped",
    "SpendReport",
    "SpokenLanguage",
    "Statistics",
    "Strategy",
    "StreamReceiver",
    "StreamTarget",
    "Summary",
    "Taxonomy",
    "TextDelta",
    "TextPart",
    "TimeSeries",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Transcript",
    "Turn",
    "TurnOptions",
    "TurnReport",
    "TurnResult",
    "UnpricedModel",
    "Unreachable",
    "Usage",
    "UserMemory",
    "UserReport",
    "WeekSpend",
    "Word",
    "WorkspaceConfiguration",
    "read_labels",
]
