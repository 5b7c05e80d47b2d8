"""Where a lost session left the answer to a turn, so that the next one goes on with the words that were not heard."""

from datetime import datetime, timedelta

from parley.domain.phone.contract import SESSION_ENDED
from parley.domain.phone.heard import CHARACTERS_PER_SECOND, speech_seconds
from parley.domain.phone.settings import NumberSettings
from parley.storage.tables import ConversationTurn


def heard_characters(
    turn: ConversationTurn, settings: NumberSettings, language: str, lost_at: datetime | None
) -> int | None:
    """How much of the answer to the last turn was heard when a session was lost; None: all of it, as far as is known.

    `lost_at`: until when the voice may have spoken, where the gateway was lost with the session; None: it was not, and
    has recorded what was heard.
    """
    if turn.error == SESSION_ENDED:
        return len(turn.heard or "")
    if turn.error or turn.heard is not None:
        return None
    if turn.response_ms is None:
        return 0
    if lost_at is None or lost_at >= turn.created_at + timedelta(milliseconds=turn.response_ms + (turn.audio_ms or 0)):
        return None
    spoken = (lost_at - turn.created_at).total_seconds() - _begins_after(turn, settings, language)
    return max(round(spoken * CHARACTERS_PER_SECOND), 0)


def _begins_after(turn: ConversationTurn, settings: NumberSettings, language: str) -> float:
    """The seconds after which the voice began the answer: after what it said because the answer was late."""
    phrases, spoken_until = settings.phrases_in(language), 0.0
    template = settings.template_for(turn.text) or phrases.slow
    late = [(turn.filler_ms, phrases.filler), (turn.template_ms, template)]
    for milliseconds, text in sorted((after, text) for after, text in late if after is not None):
        spoken_until = max(spoken_until, milliseconds / 1000) + speech_seconds(text)
    return max(spoken_until, (turn.response_ms or 0) / 1000)
