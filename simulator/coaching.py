"""Coaches a sales conversation by rules over the lines of its transcript, in English and with some Spanish cues.

Instructions in the transcript have no effect. A line is `[mm:ss] role: text`.

Scores, each from 0 to 100:

- opening: 10, +35 if the rep says who they are, +35 if they say why they call, +20 for a question, all within
  the first two rep turns.
- questioning: 10, +10 for each closed question (at most two), +20 for each open one (how, what, why, tell
  me).
- objection handling: 60 if none was raised; else the mean over the objections, each 40 if the rep's
  next turn acknowledges it, 30 if it asks, 30 if it offers evidence.
- closing: 15; for a next step in the last five rep turns 60, +20 if it is asked as a question, +20 if it
  names a time.
- overall: 20% opening, 30% questioning, 30% objection handling, 20% closing.
- evidence: 20, +20 for each rep turn with evidence, at most four.
- acknowledgement: 30, +20 for each rep turn that acknowledges, at most three.
- talk balance (in strengths and improvements only): 100, minus 2 for each percentage point by which the rep's share
  of the words is below 35% or above 60%.

Of strengths and improvements there are as many as the prompt asks for at most, as in "two to four strengths".

The skills of another rubric are rated by the rule that their names suggest, or else by the talk balance. A strength or
an improvement has its skill, the time and the quote of one line, and a better line to say.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from simulator.coaching_cues import (
    ACKNOWLEDGES,
    EVIDENCE,
    NAMES_SELF,
    NAMES_TIME,
    NEXT_STEP,
    OBJECTIONS,
    OPEN_QUESTION,
    STATES_PURPOSE,
    objection,
)
from simulator.schemas import Schema, all_property_names, item_field_names, resolve
from simulator.seeded import SeededChoice
from simulator.text import clip, sentence_with

WEIGHTS = {
    "opening_technique": 0.2,
    "questioning_skills": 0.3,
    "objection_handling": 0.3,
    "closing_technique": 0.2,
}
TITLES = {
    "opening_technique": "Opening",
    "questioning_skills": "Questioning",
    "objection_handling": "Objection handling",
    "closing_technique": "Closing",
    "talk_balance": "Talk balance",
}
NAMES = {*WEIGHTS, "overall_score", "strengths", "improvements"}
GOOD = 60
# The rule for a skill by its name; the first one that fits.
RULES = (
    ("_closing_technique", re.compile("clos|next_step|resol")),
    ("_questioning_skills", re.compile("question|diagnos|discover|listen")),
    ("_objection_handling", re.compile("objection|conflict")),
    ("_opening_technique", re.compile("open|welcom|greet|intro|goal")),
    ("_evidence", re.compile("evidence|example|explain|explanation")),
    ("_acknowledgement", re.compile("empath|encourag|acknowledg|rapport")),
)
CUES = {
    "_closing_technique": NEXT_STEP,
    "_questioning_skills": OPEN_QUESTION,
    "_evidence": EVIDENCE,
    "_acknowledgement": ACKNOWLEDGES,
}
BETTER = {
    "_closing_technique": "Shall we take half an hour on Thursday morning to look at it together?",
    "_questioning_skills": "How do you handle that today, and what does it cost you?",
    "_objection_handling": "I understand. What would it have to bring you to be worth that?",
    "_opening_technique": "The reason I am calling concerns your work. Is now a good moment?",
    "_evidence": "Let me give you an example, with the result that it had.",
    "_acknowledgement": "I understand why that matters to you.",
    "_talk_balance": "I have talked enough. How do you see it?",
}
LINE = re.compile(
    r"^[ \t]*\[(?:(\d+):)?(\d{1,3}):(\d{2})(?:\.\d+)?\][ \t]*([A-Za-z]{1,20}):[ \t]*(\S.*)$", re.MULTILINE
)
BLOCK = re.compile(r'<session index="(\d+)">(.*?)</session>', re.DOTALL)
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
ASKED = re.compile(rf"\b({'|'.join(NUMBERS)}) (?:strength|improvement)s?\b", re.IGNORECASE)
TAGGED = re.compile(r"<transcript[^>]*>(.*)</transcript>", re.DOTALL)


@dataclass(frozen=True)
class Line:
    """One turn. `at`: seconds from the start."""

    at: int
    is_rep: bool
    text: str

    @property
    def time(self) -> str:
        return f"{self.at // 60:02d}:{self.at % 60:02d}"


def parse_transcript(prompt: str) -> list[Line]:
    """Return the turns in a prompt. If the prompt has <transcript> tags, only the turns between them count."""
    tagged = TAGGED.search(prompt)
    return [
        Line(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds), role.lower() == "rep", text.strip())
        for hours, minutes, seconds, role, text in LINE.findall(tagged[1] if tagged else prompt)
    ]


@dataclass(frozen=True)
class Finding:
    """The result of one rule: a score from 0 to 100, a comment, and the lines that support it.

    skill: the name of the field that it rates. better: what could have been said. cue: what a quote should contain.
    """

    title: str
    score: int
    comment: str
    lines: tuple[Line, ...] = ()
    skill: str = ""
    better: str = ""
    cue: re.Pattern[str] | None = None


Findings = Mapping[str, "Finding | Sequence[Finding]"]


def asks_for_coaching(schema: Schema) -> bool:
    names = all_property_names(schema)
    return "overall_score" in names or len(names & NAMES) >= 2


def schema_of_each(schema: Schema) -> Schema | None:
    """Return the schema of one session's coaching, if a schema asks for that of several sessions by index."""
    if not {"index", "coaching"} <= item_field_names(schema, "sessions"):
        return None
    listed = resolve(schema, resolve(schema, schema)["properties"]["sessions"])
    item = resolve(schema, listed["items"])
    return resolve(schema, item["properties"]["coaching"])


def blocks(text: str) -> list[tuple[int, str]]:
    """Return the sessions in a prompt with several, each with its index."""
    return [(int(index), block) for index, block in BLOCK.findall(text)]


def skills_of(schema: Schema) -> list[str]:
    """Return the names of the skills that a schema asks for under `skills`; else those of a sales call."""
    rated = resolve(schema, resolve(schema, schema).get("properties", {}).get("skills", {}))
    return list(rated.get("properties", {})) or list(WEIGHTS)


def most_points(instructions: str) -> int | None:
    """Return how many strengths or improvements the instructions of a prompt ask for at most; None: they do not say."""
    return max((NUMBERS[number.lower()] for number in ASKED.findall(instructions)), default=None)


def findings(
    lines: Sequence[Line], choice: SeededChoice, names: Sequence[str] = tuple(WEIGHTS), most: int | None = None
) -> dict[str, "Finding | Sequence[Finding]"]:
    """Return the results of all rules, by the name of the field that asks for them.

    Args:
        lines: the transcript.
        choice: decides the wording.
        names: the skills to rate.
        most: how many strengths, and how many improvements, are listed at most; None: all.
    """
    coach = _Coach(lines, choice)
    skills = {name: coach.skill(name) for name in names}
    weights = {name: WEIGHTS.get(name, 1 / len(skills)) for name in skills}
    overall = round(sum(weights[name] * skill.score for name, skill in skills.items()) / sum(weights.values()))
    about = next((name for name in names if RULES[1][1].search(name)), names[0])
    balance = replace(coach.talk_balance(), skill=about)
    ranked = sorted([*skills.values(), balance], key=lambda finding: -finding.score)
    strengths = [finding for finding in ranked if finding.score > GOOD] or ranked[:1]
    improvements = [finding for finding in reversed(ranked) if finding.score < GOOD] or ranked[-1:]
    summary = coach.summary(overall, strengths[0], improvements[0])
    return {
        **skills,
        "overall_score": Finding("Overall", overall, summary),
        "summary": Finding("Summary", overall, summary),
        "strengths": strengths[:most],
        "improvements": improvements[:most],
    }


def quoted(line: Line, cue: re.Pattern[str] | None = None) -> str:
    """Quote a line with its time: the sentence with the cue, or else the beginning."""
    return f'"{clip(sentence_with(line.text, cue) if cue else line.text)}" ({line.time})'


class _Coach:
    def __init__(self, lines: Sequence[Line], choice: SeededChoice) -> None:
        self._lines, self._choice = lines, choice
        self._rep = [line for line in lines if line.is_rep]

    def skill(self, name: str) -> Finding:
        title = TITLES.get(name) or name.replace("_", " ").capitalize()
        if not self._rep:
            comment = "No line of the rep was found in the transcript."
            return Finding(title, 1, comment, tuple(self._lines[:1]), name)
        rule = next((rule for rule, cue in RULES if cue.search(name)), "_talk_balance")
        score, comment, lines = getattr(self, rule)()
        return Finding(
            title, min(score, 100), comment, tuple(lines or self._rep[:1]), name, BETTER[rule], CUES.get(rule)
        )

    def talk_balance(self) -> Finding:
        score, comment, lines = self._talk_balance()
        return Finding(TITLES["talk_balance"], score, comment, tuple(lines), better=BETTER["_talk_balance"])

    def _talk_balance(self) -> tuple[int, str, list[Line]]:
        words = sum(len(line.text.split()) for line in self._lines)
        share = round(100 * sum(len(line.text.split()) for line in self._rep) / words) if words else 0
        outside = max(35 - share, share - 60, 0)
        comment = self._wording(
            "talk", f"The rep spoke {share}% of the words.", f"{share}% of the words were the rep's."
        )
        return max(0, 100 - 2 * outside), comment, sorted(self._rep, key=lambda line: -len(line.text))[:1]

    def _evidence(self) -> tuple[int, str, list[Line]]:
        lines = [line for line in self._rep if EVIDENCE.search(line.text)]
        said = f": {quoted(lines[0], EVIDENCE)}" if lines else ""
        comment = self._wording(f"evidence {len(lines)}", "Turns with evidence", "Evidence was in as many turns")
        return 20 + 20 * min(len(lines), 4), f"{comment}, {len(lines)} in all{said}.", lines

    def _acknowledgement(self) -> tuple[int, str, list[Line]]:
        lines = [line for line in self._rep if ACKNOWLEDGES.search(line.text)]
        said = f": {quoted(lines[0], ACKNOWLEDGES)}" if lines else ""
        comment = self._wording(f"acknowledged {len(lines)}", "Turns that acknowledge", "Acknowledged in as many turns")
        return 30 + 20 * min(len(lines), 3), f"{comment}, {len(lines)} in all{said}.", lines

    def summary(self, overall: int, best: Finding, worst: Finding) -> str:
        return self._wording(
            f"summary {overall}",
            f"Overall {overall} of 100: strongest in {best.title.lower()}, weakest in {worst.title.lower()}.",
            f"{best.title} went best and {worst.title.lower()} needs most work; {overall} of 100 overall.",
        )

    def _opening_technique(self) -> tuple[int, str, list[Line]]:
        turns = self._rep[:2]
        text = " ".join(turn.text for turn in turns)
        named, purpose, has_question = NAMES_SELF.search(text), STATES_PURPOSE.search(text), "?" in text
        score = 10 + 35 * bool(named) + 35 * bool(purpose) + 20 * has_question
        facts = [
            "said who they are" if named else "did not say who they are",
            "stated a purpose" if purpose else "stated no purpose",
            "asked a question" if has_question else "asked nothing",
        ]
        opener = self._wording(quoted(turns[0]), "The rep opened with", "The conversation began with")
        return score, f"{opener} {quoted(turns[0])}: {', '.join(facts)}.", turns

    def _questioning_skills(self) -> tuple[int, str, list[Line]]:
        opened = [line for line in self._rep if OPEN_QUESTION.search(line.text)]
        open_count = sum(len(OPEN_QUESTION.findall(line.text)) for line in opened)
        total = max(open_count, sum(line.text.count("?") for line in self._rep))
        score = 10 + 10 * min(total - open_count, 2) + 20 * open_count
        example = f", such as {quoted(opened[0], OPEN_QUESTION)}" if opened else ""
        comment = self._wording(
            f"questions {total} {open_count}",
            f"{total} questions, {open_count} of them open{example}.",
            f"The rep asked {total} questions; {open_count} were open{example}.",
        )
        return score, comment, opened

    def _objection_handling(self) -> tuple[int, str, list[Line]]:
        raised = self._objections()
        if not raised:
            return (
                GOOD,
                self._wording("none", "No objection was raised.", "The prospect raised no objection."),
                [],
            )
        score = round(sum(_handling(answer)[0] for _, _, answer in raised) / len(raised))
        parts = [f"{topic} {quoted(line, OBJECTIONS[topic])}: {_handling(answer)[1]}" for topic, line, answer in raised]
        opener = self._wording(parts[0], "Objections raised", "Raised by the prospect")
        lines = [line for _, objected, answer in raised for line in (objected, answer) if line]
        return score, f"{opener}: {'; '.join(parts)}.", lines

    def _objections(self) -> list[tuple[str, Line, Line | None]]:
        """Return each objection of the prospect with the rep's next turn."""
        found: list[tuple[str, Line, Line | None]] = []
        for position, line in enumerate(self._lines):
            topic = None if line.is_rep else objection(line.text)
            if topic:
                answer = next((later for later in self._lines[position + 1 :] if later.is_rep), None)
                found.append((topic, line, answer))
        return found

    def _closing_technique(self) -> tuple[int, str, list[Line]]:
        steps = [line for line in self._rep[-5:] if NEXT_STEP.search(line.text)]
        if not steps:
            last = self._rep[-1]
            text = self._wording(
                quoted(last), "The rep asked for no next step; the last words were", "No next step after"
            )
            return 15, f"{text} {quoted(last)}.", [last]
        is_question = any("?" in line.text for line in steps)
        has_time = any(NAMES_TIME.search(line.text) for line in steps)
        how = f"{'asked as a question' if is_question else 'stated'}, {'with' if has_time else 'without'} a time"
        text = self._wording(quoted(steps[-1]), "The rep moved to a next step", "There was a next step")
        return 60 + 20 * is_question + 20 * has_time, f"{text}, {how}: {quoted(steps[-1], NEXT_STEP)}.", steps

    def _wording(self, key: str, *options: str) -> str:
        return self._choice.pick(options, key)


def _handling(answer: Line | None) -> tuple[int, str]:
    """Return the score of the answer to an objection, and what it does."""
    if answer is None:
        return 0, "never answered"
    done = {
        "acknowledged": (40, bool(ACKNOWLEDGES.search(answer.text))),
        "asked about": (30, "?" in answer.text),
        "met with evidence": (30, bool(EVIDENCE.search(answer.text))),
    }
    score = sum(points for points, met in done.values() if met)
    words = " and ".join(word for word, (_, met) in done.items() if met) or "passed over"
    return score, f"{words} in {quoted(answer)}"
