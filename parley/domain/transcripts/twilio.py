"""Twilio's Conversational Intelligence: the sentences of a transcript, in seconds, by channel.

https://www.twilio.com/docs/conversation-intelligence-classic/api/transcript-sentence-subresource
"""

from parley.domain.hearing import Passage, Transcript, channel_label
from parley.domain.transcripts.fields import Fields


def read(given: Fields) -> Transcript:
    """Each channel is a speaker. A listing of several pages must be complete: its first page alone is refused."""
    if given.inner("meta").has("next_page_url"):
        raise given.problem("meta.next_page_url", "there are more pages: put all sentences into one list")
    passages = sorted((_passage(sentence) for sentence in given.list_of("sentences")), key=lambda one: one.start)
    return Transcript(passages=tuple(passages))


def _passage(sentence: Fields) -> Passage:
    start, end = sentence.needed_seconds("start_time"), sentence.needed_seconds("end_time")
    channel = sentence.text("media_channel", "channel")
    words = tuple(word.word("start_time", "end_time") for word in sentence.list_of("words"))
    return Passage(
        speaker=channel_label(int(channel)) if channel.isdigit() else channel,
        start=start,
        end=max(start, end),
        text=sentence.text("transcript"),
        words=words,
    )
