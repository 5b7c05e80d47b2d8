"""The words by which the coaching rules recognise what a turn does, in English and Spanish."""

import re


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)


NAMES_SELF = _any(
    r"my name(?:'s| is)",
    r"(?:this is|it's|i am|i'm),? \w+(?: \w+)?,? (?:from|with|at|calling|here)",
    r"\w+ here from",
    "me llamo",
    "mi nombre es",
    r"soy \w+(?: \w+)?,? de",
)
STATES_PURPOSE = _any(
    "reason",
    "calling (?:about|to|because|you)",
    "i wanted to",
    "i'd like to",
    "purpose",
    "reaching out",
    "trying to reach",
    "we help",
    "(?:le|te|os|les) llam(?:o|aba) (?:por|para|porque)",
    "quería",
    "el motivo",
)
OPEN_QUESTION = re.compile(
    r"\b(?:how(?! about| are you)|what|why|walk me through|describe)\b[^.!?]*[?]"
    r"|\b(?:tell me|walk me through|cuénte(?:me|nos)|cuénta(?:me|nos))\b"
    r"|¿[^?]*\b(?:cómo|qué|cuáles?|por qué)\b[^?]*[?]",
    re.IGNORECASE,
)
ACKNOWLEDGES = _any(
    "understand",
    "hear you",
    "fair",
    "makes sense",
    "appreciate",
    "(?:good|great) (?:point|question)",
    "i get",
    "of course",
    "totally",
    "entiendo",
    "comprendo",
    "tiene(?:s)? razón",
    "claro",
)
EVIDENCE = re.compile(
    r"\d\s?%|\b(?:customers?|clients?|case study|for example|for instance|on average|saved?|results?|data"
    r"|pilot|reference|clientes?|por ejemplo|de media|resultados?|datos)\b",
    re.IGNORECASE,
)
NEXT_STEP = _any(
    "schedule",
    "calendar",
    "meeting",
    "demo",
    "next steps?",
    "follow[- ]up",
    "book",
    "invite",
    "send (?:you|over|it)",
    "set up",
    "sign",
    "trial",
    "pilot",
    "reunión",
    "demostración",
    "agenda(?:r|mos)?",
    "quedamos",
    "(?:le|te) (?:mando|envío|llamo)",
    "próximo paso",
)
NAMES_TIME = _any(
    "(?:mon|tues|wednes|thurs|fri)day",
    "tomorrow",
    "(?:this|next) week",
    "morning",
    "afternoon",
    r"\d{1,2}(?::\d\d)? ?(?:am|pm|o'clock)",
    "lunes|martes|miércoles|jueves|viernes",
    "mañana",
    "(?:esta|próxima) semana",
    r"a las \w+",
)
OBJECTIONS = {
    "price": _any(
        "expensive",
        "price is",
        "pricey",
        "costs? (?:too|more|a lot)",
        "budget",
        "afford",
        "cheaper",
        "too much",
        "car[oa]",
        "presupuesto",
    ),
    "time": _any(
        "no time",
        "busy",
        "bad time",
        "not (?:a good|the right) time",
        "next (?:quarter|year)",
        "no tengo tiempo",
        "ocupad[oa]",
    ),
    "competitor": _any(
        "already (?:use|using|have|work)",
        "competitors?",
        "another (?:vendor|provider|supplier)",
        "happy with",
        "current (?:vendor|provider|supplier|solution|tool)",
        "ya (?:tenemos|usamos|trabajamos)",
        "otro proveedor",
    ),
    "trust": _any(
        "never heard",
        "not sure",
        "how do i know",
        "prove it",
        "s[ck]eptical",
        "too good",
        "guarantee",
        "risky?",
        "no me fío",
        "garantías?",
        "estafa",
    ),
    "interest": _any(
        "not interested",
        "no thanks",
        "(?:don't|do not) need",
        "not for us",
        "no (?:me|nos) interesa",
        "no necesit(?:o|amos)",
    ),
}


def objection(text: str) -> str | None:
    """Return the topic of the objection in a turn of the prospect, or None."""
    return next((topic for topic, cue in OBJECTIONS.items() if cue.search(text)), None)
