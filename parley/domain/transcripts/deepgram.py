"""Deepgram: utterances, or the words of the first alternative of each channel, in seconds.

https://developers.deepgram.com/reference/speech-to-text/listen-pre-recorded
"""

from parley.domain.hearing import Passage, Transcript, TranscriptWord, channel_label
from parley.domain.transcripts.fields import Fields, by_time, grouped, label


def read(given: Fields) -> Transcript:
    """With several channels each is a speaker; channels are counted from 0."""
    results = given.inner("results")
    channels = list(results.list_of("channels"))
    language = next((found for channel in channels if (found := channel.text("detected_language"))), "")
    passages = [_passage(utterance, len(channels)) for utterance in results.list_of("utterances")]
    for number, channel in enumerate(channels if not passages else ()):
        passages += grouped(_words(channel, number, len(channels)))
    seconds = given.inner("metadata").seconds("duration")
    return Transcript(passages=by_time(passages), language=language, seconds=seconds)


def _passage(utterance: Fields, channels: int) -> Passage:
    start, end = utterance.needed_seconds("start"), utterance.needed_seconds("end")
    words = tuple(word.word() for word in utterance.list_of("words"))
    number = int(utterance.seconds("channel") or 0)
    text = utterance.text("transcript")
    return Passage(
        speaker=_speaker(utterance, number, channels), start=start, end=max(start, end), text=text, words=words
    )


def _words(channel: Fields, number: int, channels: int) -> list[tuple[str, TranscriptWord]]:
    best = next(channel.list_of("alternatives"), None)
    return [(_speaker(word, number, channels), word.word()) for word in best.list_of("words")] if best else []


def _speaker(one: Fields, number: int, channels: int) -> str:
    return channel_label(number + 1) if channels > 1 else label(one.text("speaker"))
