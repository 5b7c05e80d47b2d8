"""`parley rubrics`, and what `parley analyze` takes for a file or a URL."""

import json

from tests.cli.command import Run


async def test_rubrics_are_listed_with_their_skills(parley: Run):
    listed = json.loads((await parley("rubrics", "--json")).out)
    assert [one["id"] for one in listed] == ["sales", "support", "interview", "teaching"]
    assert all(skill["title"] and skill["weight"] for one in listed for skill in one["skill"])
    shown = (await parley("rubrics")).out
    assert "teaching@1" in shown
    assert listed[0]["skill"][0]["title"] in shown


async def test_a_url_is_fetched_and_not_read_as_a_path(parley: Run):
    refused = await parley("analyze", "https://localhost/call.wav?signature=s3cret")
    assert (refused.code, "https://localhost/call.wav: localhost is not a public host" in refused.err) == (2, True)
    assert "s3cret" not in refused.err
    with_a_transcript = await parley("analyze", "https://localhost/call.wav", "--audio", "call.wav")
    assert (with_a_transcript.code, "--audio: is a second recording" in with_a_transcript.err) == (2, True)
