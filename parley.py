"""Parley's public face for services: `from parley import Client`, and the contract types that it speaks."""

from domain.auto_analyze.contract import AutoAnalyzeInput
from domain.calls import Provider
from domain.chat import ChatSession
from domain.costs import Costs
from domain.errors import ParleyError
from domain.session import Session, Turn, Word
from domain.session_analysis import Analysis, Progress, SessionAnalysisInput, SessionAnalysisResult, Strategy
from starter.client import Client
from starter.importing import Imported
from starter.jobs import AnalysisHandle, AnalysisReport, AutoAnalyzeHandle, AutoAnalyzeReport

__all__ = [
    "Analysis",
    "AnalysisHandle",
    "AnalysisReport",
    "AutoAnalyzeHandle",
    "AutoAnalyzeInput",
    "AutoAnalyzeReport",
    "ChatSession",
    "Client",
    "Costs",
    "Imported",
    "ParleyError",
    "Progress",
    "Provider",
    "Session",
    "SessionAnalysisInput",
    "SessionAnalysisResult",
    "Strategy",
    "Turn",
    "Word",
]
