"""Parley's public face for services: `from parley import Client`, and the contract types that it speaks."""

from domain.calls import Provider
from domain.costs import Costs
from domain.errors import ParleyError
from domain.session import Session, Turn, Word
from domain.session_analysis import Analysis, Progress, SessionAnalysisInput, SessionAnalysisResult, Strategy
from starter.client import AnalysisHandle, AnalysisReport, Client

__all__ = [
    "Analysis",
    "AnalysisHandle",
    "AnalysisReport",
    "Client",
    "Costs",
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
