"""Rev: monologues of elements, text or punctuation, in seconds. https://docs.rev.ai/api/asynchronous/transcripts/"""

from parley.domain.hearing import Passage, Transcript, TranscriptWord
from parley.domain.transcripts.fields import Fields, label, spoken


def read(given: Fields) -> Transcript:
    """Speakers are numbers; a list beside the monologues may give them names."""
    names = {speaker.text("id"): speaker.text("name") for speaker in given.list_of("speakers")}
    passages = [_passage(monologue, names) for monologue in given.list_of("monologues")]
    return Transcript(passages=tuple(passage for passage in passages if passage), language=given.text("language"))


def _passage(monologue: Fields, names: dict[str, str]) -> Passage | None:
    number = monologue.text("speaker")
    words: list[TranscriptWord] = []
    for element in monologue.list_of("elements"):
        if element.text("type") == "text":
            words.append(element.word("ts", "end_ts"))
        elif words and element.text("type") == "punct":
            words[-1] = words[-1].model_copy(update={"text": words[-1].text + element.text("value")})
    return spoken(words, names.get(number) or label(number))
