"""AssemblyAI: utterances or words, in milliseconds. https://www.assemblyai.com/docs/api-reference/transcripts/get"""

from parley.domain.hearing import Passage, Transcript, channel_label
from parley.domain.transcripts.fields import MILLISECONDS, Fields, grouped, label


def read(given: Fields) -> Transcript:
    """Utterances have speakers; without them the words do, or no label is known."""
    if given.text("status") not in ("", "completed"):
        raise given.problem("status", f"is {given.text('status')}: the transcript is not complete")
    passages = [_passage(utterance) for utterance in given.list_of("utterances")]
    if not passages:
        passages = grouped([(_speaker(word), word.word(unit=MILLISECONDS)) for word in given.list_of("words")])
    return Transcript(
        passages=tuple(passages), language=given.text("language_code"), seconds=given.seconds("audio_duration")
    )


def _passage(utterance: Fields) -> Passage:
    start, end = (
        utterance.needed_seconds("start", unit=MILLISECONDS),
        utterance.needed_seconds("end", unit=MILLISECONDS),
    )
    words = tuple(word.word(unit=MILLISECONDS) for word in utterance.list_of("words"))
    return Passage(
        speaker=_speaker(utterance), start=start, end=max(start, end), text=utterance.text("text"), words=words
    )


def _speaker(one: Fields) -> str:
    """Channels are counted from 1. The speaker of a recording by channels is the channel's number, too."""
    channel = one.text("channel")
    return channel_label(int(channel)) if channel.isdigit() else label(one.text("speaker"))
