"""ElevenLabs' speech-to-text: words, blanks and audio events, in seconds; one transcript for each channel.

https://elevenlabs.io/docs/api-reference/speech-to-text/convert
"""

from parley.domain.hearing import Passage, Transcript, channel_label
from parley.domain.transcripts.fields import Fields, by_time, grouped, label


def read(given: Fields) -> Transcript:
    """A transcript of one channel. Only what was said is read: no laughter, and no music."""
    seconds = given.seconds("audio_duration_secs")
    return Transcript(passages=tuple(_passages(given)), language=given.text("language_code"), seconds=seconds)


def read_channels(given: Fields) -> Transcript:
    """Transcripts of several channels, which are counted from 0; each is a speaker."""
    channels = list(given.list_of("transcripts"))
    passages = [passage for channel in channels for passage in _passages(channel)]
    language = next((found for channel in channels if (found := channel.text("language_code"))), "")
    return Transcript(passages=by_time(passages), language=language, seconds=given.seconds("audio_duration_secs"))


def _passages(transcript: Fields) -> list[Passage]:
    index = transcript.text("channel_index")
    channel = channel_label(int(index) + 1) if index.isdigit() else ""
    return grouped(
        [
            (channel or label(word.text("speaker_id")), word.word())
            for word in transcript.list_of("words")
            if word.text("type") in ("", "word")
        ]
    )
