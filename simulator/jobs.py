"""The replies to jobs: labelling chats, condensing long ones, grouping the labels, grading an answer."""

from collections.abc import Callable, Mapping
from typing import Any

from simulator.condensing import condensed
from simulator.grading import graded
from simulator.grouping import groups
from simulator.labelling import Labeller, Noise
from simulator.requests import material, wanted_fields, wanted_item
from simulator.schemas import Schema
from simulator.wire import Prompt
from simulator.wording import Wording

Reply = dict[str, Any]
# Whether a schema asks for it, what the material must hold, and how it is answered.
Rule = tuple[Callable[[Schema], bool], tuple[str, ...], Callable[[Mapping[str, Any], Prompt], Reply]]


class Jobs:
    def __init__(self, wording: Wording, noise: Noise) -> None:
        self._wording, self._noise = wording, noise

    def reply(self, prompt: Prompt) -> Reply | None:
        """The reply, or None where the prompt asks for none of these."""
        if prompt.schema is None:
            return None
        for concerns, fields, answer in self._rules():
            if concerns(prompt.schema):
                found = material(prompt, *fields)
                return answer(found, prompt) if found else None
        return None

    def summary(self, prompt: Prompt) -> str | None:
        """A conversation in short, where the prompt gives nothing else and asks for no schema."""
        found = material(prompt, "transcript")
        return condensed(str(found["transcript"])) if found and found.keys() == {"transcript"} else None

    def _rules(self) -> list[Rule]:
        return [
            (asks_for_labels, ("known_labels", "sessions"), self._label),
            (asks_for_groups, ("labels",), self._group),
            (asks_for_summary, ("part", "parts", "transcript"), self._condense),
            (asks_for_grade, ("conversation", "answer"), self._grade),
        ]

    def _label(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        known = given["known_labels"] if isinstance(given["known_labels"], dict) else {}
        labeller = Labeller(self._wording, self._noise, known)
        sessions = given["sessions"] if isinstance(given["sessions"], list) else []
        return {"sessions": [labeller.labels(session) for session in sessions if isinstance(session, dict)]}

    def _group(self, given: Mapping[str, Any], prompt: Prompt) -> Reply:
        labels = [label for label in given["labels"] if isinstance(label, str)]
        system = "\n".join(prompt.said_by("system"))
        return {"groups": groups(labels, system, self._wording.seed, self._noise.unmerged)}

    def _condense(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        return {"summary": condensed(str(given["transcript"]))}

    def _grade(self, given: Mapping[str, Any], _prompt: Prompt) -> Reply:
        said = given["conversation"] if isinstance(given["conversation"], list) else []
        asked = [str(message.get("content", "")) for message in said if isinstance(message, dict)]
        return graded(asked[-1] if asked else "", str(given["answer"]))


def asks_for_labels(schema: Schema) -> bool:
    return {"id", "intent", "transfer_reason", "drop_off_location", "summary"} <= wanted_item(schema, "sessions")


def asks_for_groups(schema: Schema) -> bool:
    return {"canonical", "members"} <= wanted_item(schema, "groups")


def asks_for_summary(schema: Schema) -> bool:
    return wanted_fields(schema) == {"summary"}


def asks_for_grade(schema: Schema) -> bool:
    return wanted_fields(schema) == {"reason", "score"}
