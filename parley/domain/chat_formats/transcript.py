"""Plain transcripts: lines such as `Agent: …` and `Customer: …`, one session or several in a file."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from parley.domain.chat_formats.drafts import ChatRole, Draft, Terms
from parley.domain.errors import InvalidInput
from parley.domain.text import one_line

# A label at the beginning of a line, after a time if there is one: "[10:02] Agent: Hello", "2024-03-01 10:02 Bot: Hi".
DATE = r"(?:\d{4}([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2\d{2,4})"
TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?Z?(?: ?[AaPp][Mm])?"
CLOCK = rf"(?:[\[(]?(?:{DATE}(?:,? |T))?{TIME}[\])]?,?\s+(?:[-–] )?)?"
LABEL = re.compile(rf"^{CLOCK}(?P<label>[^\W\d_][\w .'’()/#-]{{0,40}}?) ?:(?:\s+(?P<text>.*)|)$")
# A line of dashes or equals signs, with the id of the next session if it has one: "--- chat-17 ---".
SEPARATOR = re.compile(r"^\s*(?:-{3,}|={3,}|\*{3,})\s*(.*?)\s*[-=*]*\s*$")
NUMBERED = re.compile(r"^(.*?) ?(?:#?\d+|\([^)]*\))$")
LABELS: Mapping[ChatRole, tuple[str, ...]] = {
    "user": (
        *("user", "customer", "client", "caller", "visitor", "guest", "member", "shopper", "patient", "consumer"),
        *("kunde", "kundin", "cliente", "usuario", "usuária", "usuário", "klant", "utilisateur"),
    ),
    "agent": (
        *("agent", "human agent", "live agent", "representative", "rep", "advisor", "adviser", "support", "operator"),
        *("support agent", "csr", "staff", "associate", "specialist", "consultant", "employee"),
        *("agente", "asesor", "asesora", "atendente", "mitarbeiter", "mitarbeiterin", "conseiller", "conseillère"),
        "medewerker",
    ),
    "bot": (
        *("bot", "chatbot", "chat bot", "assistant", "virtual assistant", "virtual agent", "ai", "ai assistant"),
        *("system", "ivr", "automated", "asistente", "assistente"),
    ),
}
ROLES: Mapping[str, ChatRole] = {label: role for role, labels in LABELS.items() for label in labels}


def begins(line: str) -> bool:
    """Whether a line begins with the label of a speaker."""
    return LABEL.match(line) is not None


def is_known(line: str) -> bool:
    """Whether a line begins with a label whose role is known without `--role`."""
    found = LABEL.match(line)
    return found is not None and _known(found["label"]) is not None


@dataclass
class _Block:
    """The lines of a session, or what is between two blank lines."""

    name: str = ""
    lines: list[tuple[int, str]] = field(default_factory=list)


class Survey:
    """What the whole of a file shows before it is read: what separates its sessions.

    Lines of dashes do, if there are any; or else blank lines, unless each message has one after it.
    """

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self.has_separators = False
        labels_in_block, most = 0, 0
        for _, line in lines:
            if is_separator(line):
                self.has_separators = True
            if line.strip():
                labels_in_block += begins(line)
            else:
                labels_in_block = 0
            most = max(most, labels_in_block)
        self.blank_lines_separate = not self.has_separators and most > 1


def is_separator(line: str) -> bool:
    """Whether a line separates two sessions."""
    return SEPARATOR.match(line) is not None


def read(
    lines: Iterable[tuple[int, str]], survey: Survey, terms: Terms, *, name: str
) -> Iterator[tuple[int, Callable[[], Draft]]]:
    """The sessions of a file, each with the line on which it begins. `name`: of the file.

    Raises:
        InvalidInput: when it is made: it does not begin with the label of a speaker, or the role of one is not known.
    """
    stem = name.rpartition("/")[2].rpartition(".")[0] or name
    for number, block in enumerate(_blocks(lines, survey), 1):
        yield block.lines[0][0], partial(_session, block.name or f"{stem}-{number}", block, terms)


def _blocks(lines: Iterable[tuple[int, str]], survey: Survey) -> Iterator[_Block]:
    block = _Block()
    for number, line in lines:
        separator = SEPARATOR.match(line)
        if separator or (not line.strip() and survey.blank_lines_separate):
            if block.lines:
                yield block
            block = _Block(separator[1] if separator else "")
        elif line.strip():
            block.lines.append((number, line))
    if block.lines:
        yield block


def _session(session_id: str, block: _Block, terms: Terms) -> Draft:
    speakers = _speakers(block, terms)
    draft = Draft(session_id=session_id)
    role: ChatRole | None = None
    said: list[str] = []
    for number, line in block.lines:
        found = LABEL.match(line)
        if found and found["label"].casefold() in speakers:
            if role:
                draft.say(role, "\n".join(said))
            role, said = speakers[found["label"].casefold()], [found["text"] or ""]
        elif role is None:
            raise InvalidInput(
                "does not begin with a speaker, for example `Agent: …` or `Customer: …`", where=f"line {number}"
            )
        else:
            said.append(line)
    if role:
        draft.say(role, "\n".join(said))
    return draft


def _speakers(block: _Block, terms: Terms) -> dict[str, ChatRole]:
    """The roles of a session's speakers. A label that occurs once and has no role is part of a text.

    Raises:
        InvalidInput: a label that begins the session, or occurs again, has no role.
    """
    found = [(number, match["label"]) for number, line in block.lines if (match := LABEL.match(line))]
    counts = Counter(label.casefold() for _, label in found)
    speakers: dict[str, ChatRole] = {}
    for number, label in found:
        role = terms.roles.named(label) or _known(label)
        if role is None and (counts[label.casefold()] > 1 or number == block.lines[0][0]):
            role = terms.roles.others
            shown = one_line(label, 60)
            if role is None:
                raise InvalidInput(
                    f"{shown!r} is not a known speaker: give the role with `--role {shown!r}=user`, =agent or =bot; "
                    "a line that begins with a blank continues a message",
                    where=f"line {number}",
                )
        if role:
            speakers[label.casefold()] = role
    return speakers


def _known(label: str) -> ChatRole | None:
    """The role of a label, which may have a number or a name in brackets after it: `Agent 2`, `Agent (Ann)`."""
    found = NUMBERED.match(label)
    return ROLES.get(label.casefold()) or (ROLES.get(found[1].casefold()) if found else None)
