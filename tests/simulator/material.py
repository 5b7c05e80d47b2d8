"""Prompts, schemas and recordings for the simulator's tests."""

import io
import math
import struct
import wave
from typing import Any

LABELS_PROMPT = (
    '<session id="s-1">I want a refund, the billing is wrong, refund please</session>\n'
    '<session id="s-2">Login fails, my password does not work, login again</session>\n'
    '<session id="s-3">Where is my parcel? The parcel delivery is late</session>'
)


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


LABELS_SCHEMA = closed(
    {
        "sessions": {
            "type": "array",
            "items": closed({"session_id": {"type": "string"}, "label": {"type": "string"}}),
        }
    }
)

SKILL = closed({"score": {"type": "integer", "description": "1 to 100"}, "comment": {"type": "string"}})
POINTS = {"type": "array", "items": {"type": "string"}}
COACHING_SCHEMA = closed(
    {
        "overall_score": {"type": "integer", "description": "1 to 100"},
        "strengths": POINTS,
        "improvements": POINTS,
        "opening_technique": SKILL,
        "questioning_skills": SKILL,
        "objection_handling": SKILL,
        "closing_technique": SKILL,
    }
)

GOOD_CALL = """<transcript>
[00:02] prospect: Brandt Hollow, Rick.
[00:04] rep: Hi Rick, my name is Dev from Cargolume. The reason I'm calling is late trucks. Is now all right?
[00:12] prospect: Go on then.
[00:14] rep: How do you find out today that a truck is late?
[00:20] prospect: The customer rings me.
[00:24] rep: What does that cost you in a week?
[00:30] prospect: Honestly, your kind of tool is too expensive for us.
[00:36] rep: I understand. What would it have to save? Our customers cut calls by 40% on average.
[00:50] prospect: Half a day a week.
[00:55] rep: Then let me show you. Could we set up a demo on Thursday at 10 am?
</transcript>"""

POOR_CALL = """<transcript>
[00:02] rep: Hello, we sell software.
[00:05] prospect: It is too expensive.
[00:08] rep: It is the best there is.
[00:11] prospect: We already use another vendor.
[00:15] rep: Fine, goodbye.
</transcript>"""


def wav(*stretches: tuple[float, float], rate: int = 16000) -> bytes:
    """Return a mono recording of a tone that swells like a voice, from stretches of (seconds, amplitude 0 to 1)."""
    samples: list[int] = []
    for seconds, amplitude in stretches:
        for n in range(int(seconds * rate)):
            swell = 0.6 + 0.4 * math.sin(2 * math.pi * 4 * n / rate)
            samples.append(int(32767 * amplitude * swell * math.sin(2 * math.pi * 220 * n / rate)))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return buffer.getvalue()
