"""Whisper's JSON, of its command, of OpenAI's API and of whisper.cpp; and WhisperX's, which has speakers.

https://github.com/openai/whisper, https://github.com/m-bain/whisperX, https://github.com/ggml-org/whisper.cpp
"""

from bisect import bisect_right
from collections.abc import Sequence

from parley.domain.hearing import Passage, Transcript, TranscriptWord
from parley.domain.transcripts.fields import MILLISECONDS, Fields, grouped, label


def read(given: Fields) -> Transcript:
    """Segments with words, words beside segments, or words alone. WhisperX gives numbers no times."""
    passages = [passage for segment in given.list_of("segments") for passage in _passages(segment)]
    words = [(label(word.text("speaker")), word.word()) for word in given.list_of("words")]
    if not passages:
        passages = grouped(words)
    elif words and not any(passage.words for passage in passages):
        passages = _with_words(passages, [word for _, word in words])
    return Transcript(passages=tuple(passages), language=given.text("language"), seconds=given.seconds("duration"))


def _passages(segment: Fields) -> list[Passage]:
    """A segment; several passages where its words have several speakers."""
    own = label(segment.text("speaker"))
    words = [(label(word.text("speaker")) or own, word.word()) for word in segment.list_of("words")]
    start, end = segment.needed_seconds("start"), segment.needed_seconds("end")
    if end < start:
        raise segment.problem("end", f"{end:g} is before the start, {start:g}")
    if len({speaker for speaker, _ in words}) > 1:
        return grouped(words)
    speaker = words[0][0] if words else own
    said = tuple(word for _, word in words if word.text)
    return [Passage(speaker=speaker, start=start, end=end, text=segment.text("text"), words=said)]


def _with_words(passages: Sequence[Passage], words: Sequence[TranscriptWord]) -> list[Passage]:
    """The segments, each with the words that begin before the next one does. OpenAI lists both side by side."""
    starts = [passage.start for passage in passages]
    said: list[list[TranscriptWord]] = [[] for _ in passages]
    for word in words:
        if word.text and word.start is not None:
            said[max(bisect_right(starts, word.start) - 1, 0)].append(word)
    return [passage.model_copy(update={"words": tuple(own)}) for passage, own in zip(passages, said, strict=True)]


def read_cpp(given: Fields) -> Transcript:
    """whisper.cpp: offsets in milliseconds."""
    passages: list[Passage] = []
    for segment in given.list_of("transcription"):
        times = segment.inner("offsets")
        start, end = times.needed_seconds("from", unit=MILLISECONDS), times.needed_seconds("to", unit=MILLISECONDS)
        passages.append(
            Passage(speaker=label(segment.text("speaker")), start=start, end=max(start, end), text=segment.text("text"))
        )
    return Transcript(passages=tuple(passages), language=given.inner("result").text("language"))
