"""The simulator with ElevenLabs' SDK."""

from math import exp

import numpy as np
import pytest
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.core.api_error import ApiError

from simulator.server import Server
from tests.simulator.material import wav
from tests.sounds import encode, tone


async def transcribe(client: AsyncElevenLabs, audio: bytes, attempt: str = "", **options):
    headers = {"X-Parley-Attempt-Id": attempt} if attempt else {}
    options = {"model_id": "scribe_v1", "diarize": True} | options
    return await client.speech_to_text.convert(
        file=("recording", audio),
        request_options={"max_retries": 0, "additional_headers": headers},
        **options,
    )


async def test_a_known_recording_is_transcribed_with_its_words(elevenlabs_client, admin, recordings):
    reply = await transcribe(elevenlabs_client, (recordings / "known.wav").read_bytes(), "attempt-1")
    assert reply.text == "Who's there? Dev here."
    assert reply.language_code == "eng"
    assert reply.audio_duration_secs == 4.5
    assert reply.model == "simulator/scribe_v1"
    assert [word.type for word in reply.words] == ["word", "spacing"] * 3 + ["word"]
    words = [word for word in reply.words if word.type == "word"]
    assert [word.speaker_id for word in words] == ["speaker_0", "speaker_0", "speaker_1", "speaker_1"]
    assert (words[0].start, words[0].end) == (0.5, 0.8)
    # A turn without word times is spread over its length: nine letters in one second.
    assert (words[2].start, words[2].end) == (2.0, 2.375)
    assert words[3].end == 3.0
    assert all(0.8 <= exp(word.logprob) <= 1 for word in words)
    request = await admin.only_request(attempt_id="attempt-1")
    assert (request["billed"], request["audio_seconds"], request["model"]) == (True, 4.5, "scribe_v1")


async def test_diarization_and_timestamps_can_be_turned_off(elevenlabs_client, recordings):
    audio = (recordings / "known.wav").read_bytes()
    reply = await transcribe(elevenlabs_client, audio, diarize=False, timestamps_granularity="none")
    assert {word.speaker_id for word in reply.words} == {None}
    assert {word.start for word in reply.words} == {None}


async def test_an_unknown_recording_gets_stretches_of_speech_without_words(elevenlabs_client, admin):
    audio = wav((1.0, 0.0), (1.5, 0.4), (1.0, 0.002), (0.9, 0.3), (0.6, 0.0))
    reply = await transcribe(elevenlabs_client, audio)
    assert {word.type for word in reply.words} == {"audio_event"}
    assert reply.text == "(speech) (speech)"
    [first, second] = reply.words
    assert first.start == pytest.approx(1.0, abs=0.1)
    assert first.end == pytest.approx(2.5, abs=0.1)
    assert second.start == pytest.approx(3.5, abs=0.1)
    assert second.end == pytest.approx(4.4, abs=0.1)
    assert reply.audio_duration_secs == pytest.approx(5.0, abs=0.05)
    assert (await admin.only_request())["audio_seconds"] == reply.audio_duration_secs


async def test_channels_are_transcribed_apart_and_each_is_billed(elevenlabs_client, admin):
    speech, silence = tone(1.5, level=0.4), np.zeros(24_000, np.float32)
    audio = encode(np.concatenate((speech, silence)), np.concatenate((silence, speech)))
    reply = await transcribe(elevenlabs_client, audio, diarize=False, use_multi_channel=True)
    starts = [round(one.words[0].start, 1) for one in reply.transcripts]
    assert ([one.channel_index for one in reply.transcripts], starts) == ([0, 1], [0.0, 1.5])
    assert (await admin.only_request())["audio_seconds"] == 2 * reply.audio_duration_secs == pytest.approx(6.0, abs=0.1)
    with pytest.raises(ApiError, match="does not support diarization"):
        await transcribe(elevenlabs_client, audio, diarize=True, use_multi_channel=True)


async def test_a_single_channel_has_one_transcript(elevenlabs_client, recordings):
    audio = (recordings / "known.wav").read_bytes()
    reply = await transcribe(elevenlabs_client, audio, diarize=False, use_multi_channel=True)
    assert reply.text == "Who's there? Dev here."


async def test_silence_has_no_speech(elevenlabs_client):
    reply = await transcribe(elevenlabs_client, wav((2.0, 0.0)))
    assert (reply.words, reply.text) == ([], "")


async def test_a_recording_beside_json_that_is_not_a_session_is_unknown(elevenlabs_client, recordings):
    reply = await transcribe(elevenlabs_client, (recordings / "notes.wav").read_bytes())
    assert all(word.type == "audio_event" for word in reply.words)


@pytest.mark.parametrize("audio", [b"this is not audio", b"RIFF\x00\x00\x00\x00WAVE"])
async def test_undecodable_audio_gets_the_vendors_error(elevenlabs_client, admin, audio):
    with pytest.raises(ApiError) as refused:
        await transcribe(elevenlabs_client, audio)
    assert refused.value.status_code == 400
    assert refused.value.body["detail"]["status"] == "invalid_content"
    assert (await admin.only_request())["billed"] is False


async def test_missing_fields_get_a_422(elevenlabs_client, admin):
    answer = await admin.http.post(
        "/elevenlabs/v1/speech-to-text",
        headers={"xi-api-key": "any"},
        files={"file": ("recording", wav((0.2, 0.1)))},
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "model_id"]


async def test_a_body_that_is_not_a_form_is_refused(admin):
    answer = await admin.http.post(
        "/elevenlabs/v1/speech-to-text", headers={"xi-api-key": "any"}, json={"model_id": "scribe_v1"}
    )
    assert answer.status_code == 400
    assert "multipart" in answer.json()["detail"]["message"]


async def test_invalid_keys_and_unknown_routes_are_refused(server: Server, elevenlabs_client):
    bad = AsyncElevenLabs(base_url=f"{server.url}/elevenlabs", api_key="invalid")
    with pytest.raises(ApiError) as refused:
        await transcribe(bad, wav((0.2, 0.1)))
    assert refused.value.status_code == 401
    assert refused.value.body["detail"]["status"] == "invalid_api_key"
    with pytest.raises(ApiError) as unknown:
        await elevenlabs_client.user.get(request_options={"max_retries": 0})
    assert unknown.value.status_code == 404


async def test_binary_audio_passes_the_form_unchanged(elevenlabs_client, recordings):
    """Bytes that look like the form's line ends and boundaries are part of the recording."""
    audio = (recordings / "known.wav").read_bytes() + b"\r\n--\r\n\r\n--\x00\xff"
    reply = await transcribe(elevenlabs_client, audio)
    assert reply.audio_duration_secs == pytest.approx(4.5, abs=0.05)
