"""What is known of a label beside its name: how many sessions have it, what it means, and what their users said."""

from collections.abc import Iterable, Sequence

from pydantic import Field

from parley.domain.auto_analyze.likeness import central
from parley.domain.chat import ChatMessage
from parley.domain.model import Model
from parley.domain.text import one_line

# An example is what a user said first; a definition is the summary of a session.
EXAMPLE_CHARACTERS, DEFINITION_CHARACTERS = 140, 140
EXAMPLES = 3
# Central examples are chosen from the first so many sessions of a label.
SAMPLED_SESSIONS = 16
# Lines with fewer words than this greet or agree.
TELLING_WORDS = 3


class LabelEvidence(Model):
    """A label with its evidence. `examples`: what users of its most typical sessions said, the most typical first.

    `given`: the run started from it, so it is neither merged into another label nor renamed. Prompts do not show that.
    """

    label: str
    sessions: int = Field(default=0, ge=0)
    definition: str = ""
    examples: tuple[str, ...] = ()
    given: bool = Field(default=False, exclude=True)

    @property
    def text(self) -> str:
        """All of it, to be compared with others."""
        return "\n".join((self.label, self.definition, *self.examples))


def opening(messages: Sequence[ChatMessage]) -> str:
    """What the user said first, without greetings, as one line."""
    lines = [message.text for message in messages if message.role == "user" and message.text.strip()]
    telling = [line for line in lines if len(line.split()) >= TELLING_WORDS] or lines
    return one_line(" ".join(telling[:2]), EXAMPLE_CHARACTERS)


def evidence_of(label: str, sessions: int, openings: Sequence[str], summaries: Sequence[str]) -> LabelEvidence:
    """The evidence of a label from some of its sessions, whose openings and summaries are in one order."""
    examples = central([text for text in openings if text], EXAMPLES)
    typical = dict(zip(openings, summaries, strict=True)).get(examples[0], "") if examples else "".join(summaries[:1])
    definition = one_line(typical, DEFINITION_CHARACTERS)
    return LabelEvidence(label=label, sessions=sessions, definition=definition, examples=tuple(examples))


def combined(label: str, members: Iterable[LabelEvidence]) -> LabelEvidence:
    """The evidence of a canonical label from that of the labels that were merged into it."""
    ranked = sorted(members, key=lambda one: (one.label != label, -one.sessions, one.label))
    examples = [example for place in range(EXAMPLES) for one in ranked for example in one.examples[place : place + 1]]
    return LabelEvidence(
        label=label,
        sessions=sum(one.sessions for one in ranked),
        definition=next((one.definition for one in ranked if one.definition), ""),
        examples=tuple(dict.fromkeys(examples))[:EXAMPLES],
        given=any(one.given for one in ranked),
    )
