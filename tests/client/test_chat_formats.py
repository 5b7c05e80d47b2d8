"""Exports of other products are imported as they are, on a real PostgreSQL; errors name file and place."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gateway.uploads import safe_name
from parley.client import json_records
from parley.client.chat_files import MAX_LINE_CHARACTERS
from parley.client.importing import Imported, import_chats
from parley.domain.errors import InvalidInput
from tests.client.desk import Desk, database, desk

__all__ = ["database", "desk"]  # fixtures
EXPORTS = Path(__file__).with_name("exports")
MARIA = "WhatsApp Chat with Maria Silva"


def shown(payload: dict[str, Any]) -> tuple[str, str, str, str]:
    """A session in short: its id, its user, how it ended, and the roles of its messages."""
    roles = "".join(message["role"][0] for message in payload["messages"])
    return payload["session_id"], payload["user_id"], payload["containment"], roles


def texts(payload: dict[str, Any]) -> list[str]:
    return [message["text"] for message in payload["messages"]]


async def read(desk: Desk, path: Path | str, **how: Any) -> list[dict[str, Any]]:
    """The sessions of an export, as they are stored."""
    return await desk.payloads(await imported(desk, path, **how))


async def imported(desk: Desk, path: Path | str, **how: Any) -> Imported:
    return await import_chats(desk.database, desk.workspace, EXPORTS / path, **how)


async def refused(desk: Desk, path: Path, **how: Any) -> InvalidInput:
    """The error, which is one short line; nothing is stored."""
    with pytest.raises(InvalidInput) as error:
        await import_chats(desk.database, desk.workspace, path, **how)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    assert await desk.rows() == (0, 0)
    return error.value


SESSIONS: dict[str, list[tuple[str, str, str, str]]] = {
    "intercom.json": [
        ("215468800001", "cust-881", "agent", "uba"),
        ("215468800002", "65e1a7", "selfService", "ubu"),
        ("215468800003", "65e1b2", "dropOff", "u"),
    ],
    "zendesk.ndjson": [
        ("35436", "20978392", "agent", "ua"),
        ("35437", "20978400", "agent", "uau"),
        ("35438", "20978401", "selfService", "ub"),
    ],
    "zendesk-chats.json": [
        ("2403.10414779.SbMjWeKUJnTbh", "10414779.13ojzHu7", "agent", "uba"),
        ("2403.offline.1", "1.12345", "dropOff", "u"),
    ],
    "twilio.json": [("CH01", "whatsapp:+15558675310", "agent", "ua"), ("CH02", "guest-77", "selfService", "bub")],
    f"{MARIA}.txt": [(f"{MARIA}-1", "Maria Silva", "agent", "uau"), (f"{MARIA}-2", "Maria Silva", "agent", "ua")],
    "whatsapp-ios.txt": [("whatsapp-ios-1", "Maria", "agent", "uau")],
    "slack": [
        ("general-1710500000.000100", "U02BEN", "dropOff", "u"),
        ("help-1710148000.000200", "U01ANN", "agent", "ubau"),
        ("help-1710235000.000100", "U02BEN", "selfService", "ub"),
    ],
    "dialogflow-cx.json": [("dfMessenger-77", "dfMessenger-77", "agent", "ubub")],
    "dialogflow-bigquery.jsonl": [("s-2", "s-2", "selfService", "ubub"), ("s-1", "s-1", "dropOff", "b")],
    "dialogflow-logging.json": [("es-9", "es-9", "selfService", "ub"), ("cx-3", "cx-3", "selfService", "ub")],
    "rasa-tracker.json": [("bd3a1f", "bd3a1f", "selfService", "ubub"), ("bd3a1f~2", "bd3a1f", "agent", "u")],
    "rasa-events.jsonl": [
        ("s-1", "s-1", "selfService", "ub"),
        ("s-2", "s-2", "dropOff", "u"),
        ("s-3", "s-3", "dropOff", "u"),
    ],
    "transcripts.txt": [
        ("call-17", "call-17", "agent", "aua"),
        ("call-18", "call-18", "selfService", "bub"),
        ("transcripts-3", "transcripts-3", "dropOff", "u"),
    ],
}
FORMATS = {name: name.split(".")[0].split("-")[0] for name in SESSIONS} | {
    f"{MARIA}.txt": "whatsapp",
    "transcripts.txt": "transcript",
}


class TestExports:
    @pytest.mark.parametrize("name", SESSIONS)
    async def test_an_export_is_read_as_it_is(self, name: str, desk: Desk) -> None:
        assert [shown(payload) for payload in await read(desk, name)] == SESSIONS[name]

    @pytest.mark.parametrize("name", SESSIONS)
    async def test_the_format_that_is_found_is_the_one_that_can_be_named(self, name: str, desk: Desk) -> None:
        found = await read(desk, name)
        assert await read(desk, name, format=FORMATS[name]) == found

    @pytest.mark.parametrize("name", [name for name in SESSIONS if ".json" in name])
    async def test_a_document_is_read_in_pieces_of_any_size(
        self, name: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_records, "READ_CHARACTERS", 1)
        assert [shown(payload) for payload in await read(desk, name)] == SESSIONS[name]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
    @pytest.mark.parametrize("name", [name for name in SESSIONS if name != "slack"])
    async def test_an_export_in_another_encoding(self, name: str, encoding: str, desk: Desk) -> None:
        path = desk.folder / name
        path.write_text((EXPORTS / name).read_text("utf-8"), encoding=encoding)
        assert [shown(payload) for payload in await read(desk, path)] == SESSIONS[name]

    async def test_html_is_text_and_notes_are_left_out(self, desk: Desk) -> None:
        first, second, _ = await read(desk, "intercom.json")
        assert texts(first) == [
            "Hi, I was charged twice for March.\nInvoice INV-2207 & INV-2208.",
            "Let me check that for you.",
            "I have refunded the second one.",
        ]
        assert texts(second)[1] == "Open Settings, then Export.\nCSV\nJSON"
        assert first["messages"][0]["time"] == "2024-03-04T09:00:00Z"

    async def test_a_session_in_which_nothing_was_said_is_listed(self, desk: Desk) -> None:
        first, again = [await imported(desk, "intercom.json") for _ in range(2)]
        [left_out] = first.skipped
        assert (left_out.line, left_out.problem) == (59, "session 215468800004 has no message")
        assert again == first.model_copy(update={"known": True})

    async def test_a_comment_that_is_a_chat_becomes_its_messages(self, desk: Desk) -> None:
        _, chat, _ = await read(desk, "zendesk.ndjson")
        assert texts(chat) == [
            "Can I change the delivery date?",
            "Yes. Which day?\nMorning or evening?",
            "Friday evening",
        ]

    async def test_whatsapp_has_lines_of_one_message_and_no_placeholders(self, desk: Desk) -> None:
        first, second = await read(desk, f"{MARIA}.txt")
        assert texts(first)[0] == "Good morning, my washing machine leaks\nIt is under warranty:\nbought in January"
        assert texts(second) == ["It leaks again!", "I am sorry, we come tomorrow."]
        assert first["messages"][0]["time"] == "2024-03-12T09:14:00Z"
        [ios] = await read(desk, "whatsapp-ios.txt")
        assert [message["time"] for message in ios["messages"]] == [
            "2024-03-12T09:14:05Z",
            "2024-03-12T12:20:00Z",
            "2024-03-13T00:05:10Z",
        ]
        assert texts(ios)[1] == "Hello: what can we do?"

    async def test_slack_shows_names_links_and_characters(self, desk: Desk) -> None:
        lunch, vpn, _ = await read(desk, "slack")
        assert texts(vpn) == [
            "VPN drops every hour, see the status page (https://status.example.com) & #general",
            "Have you restarted the client?",
            "@ann.m which client version?",
            "4.2",
        ]
        assert texts(lunch) == ["@here lunch?"]

    async def test_dialogflow_decodes_the_text_of_a_log_entry(self, desk: Desk) -> None:
        spanish, _ = await read(desk, "dialogflow-logging.json")
        assert texts(spanish) == ['¿dónde está mi "pedido"?', "Llega el lunes."]

    @pytest.mark.parametrize(
        ("requester", "chat", "roles"),
        [
            ({}, "(10:02:10) *** Lena joined the chat ***\n(10:02:11) Lena: Hi\n(10:02:12) Jo: Hello", "au"),
            ({}, "(10:02:11) Lena: Hi\n(10:02:12) Jo: Hello\n(10:02:13) *** Lena joined the chat ***", "au"),
            ({"name": "Jo"}, "(10:02:11) Lena: Hi\n(10:02:12) Jo: Hello", "au"),
            ({"name": "Jo Doe"}, "(10:02:11) Jo: Hi\n(10:02:12) Lena: Hello", "ua"),
        ],
    )
    async def test_the_visitor_of_a_chat_may_write_after_the_agent(
        self, requester: dict[str, str], chat: str, roles: str, desk: Desk
    ) -> None:
        path = desk.folder / "tickets.json"
        ticket = {"id": 1, "requester": {"id": 2, **requester}, "comments": [{"author_id": 2, "body": chat}]}
        path.write_text(json.dumps({"tickets": [ticket]}), encoding="utf-8")
        [found] = await read(desk, path)
        assert shown(found)[3] == roles

    async def test_no_sender_of_rasa_has_the_session_of_another(self, desk: Desk) -> None:
        path = desk.folder / "events.jsonl"
        kinds = ("user", "restart", "user")
        senders = ("u", "u-2", "u~2", "u~2~1")
        events = [{"sender_id": sender, "event": kind, "text": "Hi"} for sender in senders for kind in kinds]
        path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
        ids = [one["session_id"] for one in await read(desk, path)]
        assert ids == ["u", "u~2", "u-2", "u-2~2", "u~2~1", "u~2~2", "u~2~1~1", "u~2~1~2"]

    @pytest.mark.parametrize(
        ("result", "said", "containment"),
        [
            ({"responseMessages": [{"telephonyTransferCall": {"phoneNumber": "+1"}}]}, [], "agent"),
            ({"responseMessages": [{"outputAudioText": {"text": "Nine."}}]}, ["Nine."], "selfService"),
            (
                {"responseMessages": [{"outputAudioText": {"ssml": "<speak>It is <b>9</b></speak>"}}]},
                ["It is 9"],
                "selfService",
            ),
            (
                {"responseMessages": [{"outputAudioText": {"text": "nine"}}, {"text": {"text": ["9"]}}]},
                ["9"],
                "selfService",
            ),
            (
                {
                    "fulfillmentMessages": [
                        {"platform": "TELEGRAM", "text": {"text": ["Hi on Telegram"]}},
                        {"platform": "PLATFORM_UNSPECIFIED", "text": {"text": ["Hi"]}},
                        {"text": {"text": ["there"]}},
                    ]
                },
                ["Hi\nthere"],
                "selfService",
            ),
            (
                {
                    "fulfillmentMessages": [
                        {"platform": "TELEGRAM", "text": {"text": ["Hi on Telegram"]}},
                        {"platform": "SLACK", "text": {"text": ["Hi on Slack"]}},
                        {"text": {"text": [""]}},
                    ]
                },
                ["Hi on Telegram"],
                "selfService",
            ),
        ],
    )
    async def test_dialogflow_has_one_form_of_a_reply(
        self, result: dict[str, Any], said: list[str], containment: str, desk: Desk
    ) -> None:
        path = desk.folder / "log.json"
        labels = {"session_id": "s"}
        entries = [
            {"labels": labels, "jsonPayload": {"queryInput": {"text": {"text": "hours?"}}}},
            {"labels": labels, "jsonPayload": 5},
            {"labels": labels, "jsonPayload": {"queryResult": {"queryText": "hours?", **result}}},
        ]
        path.write_text(json.dumps({"entries": entries}), encoding="utf-8")
        [session] = await read(desk, path)
        assert texts(session) == ["hours?", *said]
        assert session["containment"] == containment

    async def test_a_log_that_begins_with_a_number_is_not_of_dialogflow(self, desk: Desk) -> None:
        path = desk.folder / "log.jsonl"
        path.write_text('{"jsonPayload": 5}\n', encoding="utf-8")
        assert str(await refused(desk, path)).startswith("log.jsonl: line 1: ")

    @pytest.mark.parametrize(
        ("state", "containment"),
        [
            *(("escalated", "agent"), ("procedure_handoff", "agent"), ("routed_to_team", "agent")),
            *(("negative_feedback", "dropOff"), ("abandoned", "dropOff"), ("confirmed_resolution", "selfService")),
        ],
    )
    async def test_intercom_says_how_its_agent_ended(self, state: str, containment: str, desk: Desk) -> None:
        conversation = {
            "id": "1",
            "source": {"delivered_as": "automated", "body": "Any questions?", "author": {"type": "admin", "id": "9"}},
            "ai_agent": {"resolution_state": state},
            "conversation_parts": [
                {"body": "My card is 4111", "redacted": True, "author": {"type": "user"}},
                {"body": "Yes", "author": {"type": "user"}},
            ],
        }
        path = desk.folder / "conversation.json"
        path.write_text(json.dumps(conversation), encoding="utf-8")
        [session] = await read(desk, path)
        assert shown(session) == ("1", "1", containment, "bu")
        assert texts(session) == ["Any questions?", "Yes"]

    async def test_the_buttons_of_a_bot_are_its_text(self, desk: Desk) -> None:
        first, _ = await read(desk, "rasa-tracker.json")
        assert texts(first)[1] == "Tonight | Tomorrow"

    async def test_a_blank_line_separates_transcripts_without_dashes(self, desk: Desk) -> None:
        path = desk.folder / "calls.txt"
        path.write_text("Customer: hi\nAgent: hello\n\n\nCustomer: bye\nBot: Bye.\n", encoding="utf-8")
        assert [shown(one)[3] for one in await read(desk, path)] == ["ua", "ub"]

    @pytest.mark.parametrize(
        "time",
        [
            *("[2024-03-01 10:02]", "2024-03-01 10:02:11", "2024-03-01T10:02:11.5Z", "[01/03/2024, 10:02]"),
            *("3/1/24, 10:02 AM -", "(1.3.2024 10:02)", "10:02"),
        ],
    )
    async def test_a_transcript_with_dates_has_the_roles_of_its_labels(self, time: str, desk: Desk) -> None:
        path = desk.folder / "call.txt"
        path.write_text(f"{time} Agent 2: hi\n{time} Customer: hello: you\n{time} Bot:\n", encoding="utf-8")
        [call] = await read(desk, path)
        assert (shown(call)[3], texts(call)) == ("au", ["hi", "hello: you"])

    async def test_a_chat_of_whatsapp_with_a_name_that_is_a_label_is_not_a_transcript(self, desk: Desk) -> None:
        path = desk.folder / "chat.txt"
        path.write_text("[2024-03-01 10:02] Support: hi\n[2024-03-01 10:03] Maria: hello\n", encoding="utf-8")
        [chat] = await read(desk, path)
        assert shown(chat) == ("chat-1", "Support", "agent", "ua")

    async def test_a_blank_line_after_each_message_separates_nothing(self, desk: Desk) -> None:
        path = desk.folder / "call.txt"
        path.write_text("Customer: hi\n\nAgent: hello\n\nCustomer: bye\n", encoding="utf-8")
        assert [shown(one)[3] for one in await read(desk, path)] == ["uau"]


class TestTerms:
    async def test_roles_of_names_decide(self, desk: Desk) -> None:
        roles = {"fixit service": "user", "Maria Silva": "bot"}
        found = await read(desk, f"{MARIA}.txt", roles=roles)
        assert [shown(one)[3] for one in found] == ["bub", "bu"]

    async def test_who_is_not_named_is_on_the_other_side(self, desk: Desk) -> None:
        found = await read(desk, f"{MARIA}.txt", roles={"Fixit Service": "agent"})
        assert [shown(one)[3] for one in found] == ["uau", "ua"]
        turned = await read(desk, f"{MARIA}.txt", roles={"Fixit Service": "user"})
        assert [shown(one)[3] for one in turned] == ["aua", "au"]

    async def test_a_speaker_of_a_transcript_has_the_role_that_is_given(self, desk: Desk) -> None:
        path = desk.folder / "call.txt"
        path.write_text("Sarah: Hello\nMax: My lamp broke. Note: twice\nNote: I paid\nSarah: Sorry\n", encoding="utf-8")
        error = await refused(desk, path)
        assert str(error).startswith(
            "call.txt: line 1: 'Sarah' is not a known speaker: give the role with `--role 'Sarah'=user`"
        )
        [call] = await read(desk, path, roles={"Sarah": "agent", "Max": "user"})
        assert (shown(call)[3], texts(call)[1]) == ("aua", "My lamp broke. Note: twice\nNote: I paid")

    async def test_a_silence_ends_a_session(self, desk: Desk) -> None:
        assert len(await read(desk, f"{MARIA}.txt", session_gap_hours=24 * 30)) == 1
        assert len(await read(desk, f"{MARIA}.txt", session_gap_hours=0.1)) == 4

    async def test_another_way_to_read_is_another_dataset(self, desk: Desk) -> None:
        ways: list[dict[str, Any]] = [{}, {"session_gap_hours": 1}, {"roles": {"Fixit Service": "bot"}}]
        first = [(await imported(desk, f"{MARIA}.txt", **way)).dataset_id for way in ways]
        assert len({*first}) == 3
        assert [(await imported(desk, f"{MARIA}.txt", **way)).known for way in ways] == [True] * 3

    async def test_a_file_that_names_its_sessions_is_another_dataset_under_another_name(self, desk: Desk) -> None:
        shutil.copy(EXPORTS / "transcripts.txt", desk.folder / "other.txt")
        first, other = await imported(desk, "transcripts.txt"), await imported(desk, desk.folder / "other.txt")
        assert first.dataset_id != other.dataset_id
        assert (await desk.names(other))[2] == "other-3"

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"format": "xml"}, "format: must be one of jsonl, csv, intercom"),
            ({"roles": {"Ann": "boss"}}, "roles: the role of 'Ann' must be user, agent or bot"),
            ({"session_gap_hours": 0}, "session_gap_hours: must be above 0"),
            ({"session_gap_hours": float("nan")}, "session_gap_hours: must be above 0"),
        ],
    )
    async def test_a_wrong_option_is_refused(self, how: dict[str, Any], message: str, desk: Desk) -> None:
        assert str(await refused(desk, EXPORTS / "twilio.json", **how)).startswith(message)


DATES = [
    ("[13/03/2024, 10:15:32] {}", "[14/03/2024, 10:15:32] {}", "2024-03-14T10:15:32Z"),
    ("3/13/24, 10:15 PM - {}", "3/14/24, 12:15 AM - {}", "2024-03-14T00:15:00Z"),
    ("13.03.24, 10:15 - {}", "14.03.24, 10:15 - {}", "2024-03-14T10:15:00Z"),
    ("13/03/2024 10:15 - {}", "14/03/2024 10:15 - {}", "2024-03-14T10:15:00Z"),
    ("13-03-2024 10:15 - {}", "14-03-2024 10:15 - {}", "2024-03-14T10:15:00Z"),
    ("2024-03-13, 10:15 - {}", "2024-03-14, 10:15 - {}", "2024-03-14T10:15:00Z"),
    ("2024/03/13 10:15 - {}", "2024/03/14 下午10:15 - {}", "2024-03-14T22:15:00Z"),
    ("[13.3.2024 klo 10.15.32] {}", "[14.3.2024 klo 10.15.32] {}", "2024-03-14T10:15:32Z"),
    ("13/3/24, 10:15 a.\u00a0m. - {}", "14/3/24, 10:15 p.\u00a0m. - {}", "2024-03-14T22:15:00Z"),
    ("2024. 3. 13. 오전 10:15, {}", "2024. 3. 14. 오후 10:15, {}", "2024-03-14T22:15:00Z"),
    *(
        (f"2024/3/13 {early}10:15 - {{}}", f"2024/3/14 {late}{hour}:15 - {{}}", f"2024-03-14T{time}:15:00Z")
        for early, late, hour, time in (
            *(("早上", "晚上", 10, 22), ("清晨", "凌晨", 12, "00"), ("凌晨", "中午", 12, 12)),
            ("上午", "早上", 8, "08"),
        )
    ),
    ("13/03/2024 à 10:15 - {}", "14/03/2024 à 10:15 - {}", "2024-03-14T10:15:00Z"),
    ("2024년 3월 13일 오전 10:15, {}", "2024년 3월 14일 오후 10:15, {}", "2024-03-14T22:15:00Z"),
    ("[13\u200f/3\u200f/2024، 10:15:32 ص] {}", "[14\u200f/3\u200f/2024، 10:15:32 م] {}", "2024-03-14T22:15:32Z"),
    ("[١٣/٣/٢٠٢٤, ١٠:١٥:٣٢] {}", "[١٤/٣/٢٠٢٤, ١٠:١٥:٣٢] {}", "2024-03-14T10:15:32Z"),
    # Both orders are possible, and one of them would run backwards.
    ("05/04/2024, 10:15 - {}", "06/03/2024, 10:15 - {}", "2024-06-03T10:15:00Z"),
    # Both orders are possible: a clock of twelve hours is that of the United States.
    ("3/4/24, 10:15 AM - {}", "3/5/24, 10:15 AM - {}", "2024-03-05T10:15:00Z"),
    ("3/4/24, 10:15 - {}", "4/4/24, 10:15 - {}", "2024-04-04T10:15:00Z"),
]


@pytest.mark.parametrize(("first", "second", "time"), DATES, ids=[first for first, _, _ in DATES])
async def test_dates_of_every_region(first: str, second: str, time: str, desk: Desk) -> None:
    path = desk.folder / "chat.txt"
    path.write_text("\n".join((first.format("Ann: Hi"), second.format("Ben: Yes: no"))), encoding="utf-8")
    found = [message for one in await read(desk, path, session_gap_hours=2000) for message in one["messages"]]
    assert [(one["role"], one["text"]) for one in found] == [("user", "Hi"), ("agent", "Yes: no")]
    assert found[1]["time"] == time


class TestWhatsApp:
    async def said(self, desk: Desk, *lines: str, name: str = "chat.txt", **how: Any) -> list[tuple[str, str]]:
        path = desk.folder / name
        path.write_text("\n".join(lines), encoding="utf-8")
        found = [message for one in await read(desk, path, **how) for message in one["messages"]]
        return [(one["role"][0], one["text"]) for one in found]

    @pytest.mark.parametrize("person", ["José Núñez", "मीना", "美咲", "Maria 🌸", "Jose\u0301 Núñez"])
    async def test_the_name_in_the_name_of_an_upload_is_the_user(self, person: str, desk: Desk) -> None:
        lines = ["12/03/2024, 09:14 - Shop: Hi", f"12/03/2024, 09:15 - {person}: Hello"]
        name = safe_name(f"WhatsApp Chat with {person}.txt")
        assert await self.said(desk, *lines, name=name) == [("a", "Hi"), ("u", "Hello")]

    @pytest.mark.parametrize("other", ["🌸", "Ann"])
    async def test_a_name_is_in_that_of_a_file_as_a_word(self, other: str, desk: Desk) -> None:
        lines = [f"12/03/2024, 09:14 - {other}: Hi", "12/03/2024, 09:15 - Joann: Hello"]
        assert await self.said(desk, *lines, name="WhatsApp Chat with Joann.txt") == [("a", "Hi"), ("u", "Hello")]

    async def test_people_may_write_the_words_of_a_notice(self, desk: Desk) -> None:
        lines = [
            "[12/03/2024, 09:14:00] Shop: \u200eMessages and calls are end-to-end encrypted.",
            "[12/03/2024, 09:14:00] Messages and calls are end-to-end encrypted. Learn more: here",
            "[12/03/2024, 09:15:00] Ann: Is this end-to-end encrypted?",
            '[12/03/2024, 09:16:00] Bob changed the subject from "Trip" to "Trip: 2024"',
            "[12/03/2024, 09:16:01] Bob änderte den Betreff zu „Reise: 2024“",
            '[12/03/2024, 09:17:00] Bob "the Builder": Yes',
        ]
        assert await self.said(desk, *lines) == [("u", "Is this end-to-end encrypted?"), ("a", "Yes")]

    @pytest.mark.parametrize(
        "placeholder",
        [
            *("<Media omitted>", "<Media tidak disertakan>", "<Medya dahil edilmedi>", "<Без медиафайлов>"),
            *("\u200eIMG-1.jpg (file attached)", "IMG-1.jpg (file attached)", "IMG-1.jpg (файл добавлен)"),
        ],
    )
    async def test_a_caption_stays_and_its_placeholder_does_not(self, placeholder: str, desk: Desk) -> None:
        lines = [f"12/03/2024, 09:14 - Ann: {placeholder}", "12/03/2024, 09:15 - Ann: It leaks"]
        assert await self.said(desk, *lines) == [("u", "It leaks")]
        lines[1] = "It leaks\nhere"
        assert await self.said(desk, *lines) == [("u", "It leaks\nhere")]

    async def test_a_line_with_a_date_that_does_not_exist_can_be_left_out(self, desk: Desk) -> None:
        lines = ["12/03/2024, 09:14 - Ann: My log:", "99/99/2024, 09:15 - pump: failed", "31/02/2024, 09:15 - Ann: No"]
        (desk.folder / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
        done = await imported(desk, desk.folder / "chat.txt", skip_invalid=True)
        assert [one.line for one in done.skipped] == [2, 3]
        [chat] = await desk.payloads(done)
        assert texts(chat) == ["My log:"]


def changed(name: str, old: str, new: str) -> bytes:
    """An export with one change."""
    before = (EXPORTS / name).read_text("utf-8")
    assert old in before
    return before.replace(old, new, 1).encode(errors="surrogatepass")


# What is wrong, and the error after the name of the file.
MALFORMED: dict[str, tuple[str, bytes, str]] = {
    "a time that is none": (
        "intercom.json",
        changed("intercom.json", '"created_at": 1709543100', '"created_at": "soon"'),
        "line 6: conversations.0.conversation_parts.conversation_parts.3.created_at: is not a time: use ISO 8601",
    ),
    "no id": (
        "intercom.json",
        changed("intercom.json", '"id": "215468800002"', '"id": null'),
        "line 37: conversations.1.id: is missing: the export must have it",
    ),
    "parts that are not a list": (
        "intercom.json",
        changed("intercom.json", '"conversation_parts": [\n          {', '"conversation_parts": {"a": [\n          {'),
        "line 37: is not JSON: Expecting property name enclosed in double quotes at column 5",
    ),
    "a conversation of a list of Intercom": (
        "page.json",
        json.dumps({"data": [{"type": "conversation", "id": "1", "source": {"body": "Hi"}}]}).encode(),
        "line 1: data.0.conversation_parts: is missing: retrieve each conversation by its id",
    ),
    "half a surrogate pair": (
        "intercom.json",
        changed("intercom.json", "Is anyone there?", "\\ud83d"),
        "line 50: conversations.2.source.body: contains '\\ud83d', which cannot be stored: remove it",
    ),
    "a NUL in JSON": (
        "twilio.json",
        changed("twilio.json", "My order is late", "a\\u0000b"),
        "line 5: messages.1.body: contains '\\x00', which cannot be stored: remove it",
    ),
    "an index that is not a number": (
        "twilio.json",
        changed("twilio.json", '"index": 1, "author": "ana', '"index": "one", "author": "ana'),
        "line 4: messages.0.index: must be a whole number",
    ),
    "a document that is cut": (
        "twilio.json",
        (EXPORTS / "twilio.json").read_bytes()[:1500],
        "line 8: is not JSON: Unterminated string starting at at column",
    ),
    "tickets without comments": (
        "zendesk.ndjson",
        b'{"id": 1, "requester_id": 2, "status": "open"}\n',
        "line 1: comments: is missing: export the tickets with their comments",
    ),
    "a line that is not JSON": (
        "zendesk.ndjson",
        changed("zendesk.ndjson", '"status":"closed"', '"status":closed'),
        "line 2: is not JSON: Expecting value at column",
    ),
    "a session that comes twice": (
        "zendesk.ndjson",
        changed("zendesk.ndjson", '"id":35438', '"id":35436'),
        "line 3: session_id: is on line 1 already: make it unique",
    ),
    "an id that is too long": (
        "rasa-events.jsonl",
        changed("rasa-events.jsonl", '"s-2"', json.dumps("s" * 201)),
        "line 2: session_id: String should have at most 200 characters",
    ),
    "a row whose data is not JSON": (
        "rasa-events.jsonl",
        changed("rasa-events.jsonl", '"data": "{', '"data": "<'),
        "line 4: data: is not JSON: export the rows of the table as they are",
    ),
    "a turn without a session": (
        "dialogflow-logging.json",
        changed(
            "dialogflow-logging.json",
            '"session_id": "cx-3"}, "timestamp": "2024-03-09T15:00:01Z"',
            '"a": ""}, "timestamp": ""',
        ),
        "line 5: 3.session: is missing: the log entry must have the label session_id or a session",
    ),
    "a date that does not exist": (
        "chat.txt",
        b"12/03/2024, 09:14 - Ann: Hi\n31/02/2024, 09:15 - Ann: Hello\n",
        "line 2: has a time that does not exist in the order of this file's dates (day first): "
        "'31/02/2024, 09:15 - Ann: Hello'; a line that begins with a blank continues a message",
    ),
    "a NUL in text": ("chat.txt", b"Agent: hi\nCustomer: a\0b\n", "line 2: has a NUL character: remove it"),
    "a byte that is not UTF-8": (
        "chat.txt",
        "Agent: hi\nCustomer: señor\n".encode("cp1252"),
        "line 2: is not UTF-8: save the file as UTF-8",
    ),
    "a giant line": (
        "chat.txt",
        b"Agent: hi\nCustomer: " + b"x" * MAX_LINE_CHARACTERS,
        "line 2: is longer than 5,000,000 characters: leave out or split the session",
    ),
    "a giant object": (
        "twilio.json",
        changed("twilio.json", "My order is late", "x" * 2 * MAX_LINE_CHARACTERS),
        "line 5: is longer than 5,000,000 characters: leave out or split the session",
    ),
    "nested too deeply": ("a.json", b'{"conversations": [' + b"[" * 100_000, "line 1: is not JSON"),
    "text of no format": (
        "notes.txt",
        b"My diary,\ntoday it rained.\n",
        "has none of the formats that are known: name one with `--format`",
    ),
    "UTF-16 without a mark": ("a.txt", "Agent: hi".encode("utf-16-le"), "seems to be UTF-16 without a byte order mark"),
    "UTF-16 that is cut": (
        "a.txt",
        "Agent: hi".encode("utf-16")[:-1],
        "is not text in the encoding of its first bytes",
    ),
    "a PDF": ("a.txt", b"%PDF-1.7\n", "is a PDF: export the chats as text"),
    "a gzip archive": ("a.json", b"\x1f\x8b\x08\x00", "is a gzip archive: unpack it first"),
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    async def test_the_error_names_file_and_place(self, name: str, desk: Desk) -> None:
        file, content, message = MALFORMED[name]
        path = desk.folder / file
        path.write_bytes(content)
        error = str(await refused(desk, path))
        assert error.startswith(f"{file}: {message}"), error

    async def test_an_invalid_record_can_be_left_out(self, desk: Desk) -> None:
        path = desk.folder / "intercom.json"
        path.write_bytes(MALFORMED["a time that is none"][1])
        done = await imported(desk, path, skip_invalid=True)
        assert [(one.line, one.field.split(".")[0]) for one in done.skipped] == [(6, "conversations"), (59, "")]
        assert await desk.names(done) == ["215468800002", "215468800003"]

    async def test_a_format_that_is_named_is_the_one_that_is_read(self, desk: Desk) -> None:
        error = await refused(desk, EXPORTS / "twilio.json", format="intercom")
        assert str(error).startswith("twilio.json: line 1: id: is missing")
        error = await refused(desk, EXPORTS / "twilio.json", format="whatsapp")
        assert str(error).startswith("twilio.json: line 1: does not begin as an export of WhatsApp does")


class TestContainers:
    def archive(self, desk: Desk, name: str = "export.zip", **files: bytes) -> Path:
        path = desk.folder / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for file, content in files.items():
                made.writestr(file, content)
        return path

    async def test_a_zip_of_slack_is_its_folder(self, desk: Desk) -> None:
        source = EXPORTS / "slack"
        files = {file.relative_to(source).as_posix(): file.read_bytes() for file in source.rglob("*.json")}
        found = await read(desk, self.archive(desk, **files))
        assert [shown(one) for one in found] == SESSIONS["slack"]

    async def test_one_file_of_a_channel(self, desk: Desk) -> None:
        found = await read(desk, EXPORTS / "slack" / "help" / "2024-03-11.json")
        assert [shown(one)[::3] for one in found] == [("2024-03-11-1710148000.000200", "uba")]

    async def test_a_zip_of_whatsapp_has_the_name_of_the_chat(self, desk: Desk) -> None:
        chat = (EXPORTS / "whatsapp-ios.txt").read_bytes().replace(b"Maria", b"Ann")
        path = self.archive(desk, "WhatsApp Chat - Fixit Service.zip", **{"_chat.txt": chat, "photo.jpg": b"\xff\xd8"})
        [found] = await read(desk, path)
        assert shown(found) == ("WhatsApp Chat - Fixit Service-1", "Fixit Service", "agent", "aua")

    async def test_the_files_of_a_folder_may_have_several_formats(self, desk: Desk) -> None:
        folder = desk.folder / "exports"
        (folder / "deep").mkdir(parents=True)
        shutil.copy(EXPORTS / "zendesk.ndjson", folder)
        shutil.copy(EXPORTS / "transcripts.txt", folder / "deep")
        (folder / ".hidden.txt").write_text("no format")
        (folder / "link.txt").symlink_to(EXPORTS / "whatsapp-ios.txt")
        found = await imported(desk, folder)
        assert await desk.names(found) == ["call-17", "call-18", "transcripts-3", "35436", "35437", "35438"]
        (folder / "second.ndjson").write_bytes((EXPORTS / "zendesk.ndjson").read_bytes())
        error = await import_chats(desk.database, desk.workspace, folder, skip_invalid=True)
        assert {(one.file, one.problem) for one in error.skipped} == {
            ("exports/zendesk.ndjson", f"is on line {line} of exports/second.ndjson already: make it unique")
            for line in (1, 2, 3)
        }

    async def test_an_unpacked_chat_of_whatsapp_has_the_name_of_its_folder(self, desk: Desk) -> None:
        chat = (EXPORTS / "whatsapp-ios.txt").read_bytes()
        names = ("St. Mary", "Fixit Service")
        path = self.archive(desk, **{f"a/WhatsApp Chat - {name}/_chat.txt": chat for name in names})
        found = [shown(one)[::3] for one in await read(desk, path)]
        assert found == [("WhatsApp Chat - Fixit Service-1", "aua"), ("WhatsApp Chat - St. Mary-1", "uau")]

    async def test_files_of_one_name_in_two_folders_are_two_conversations_of_twilio(self, desk: Desk) -> None:
        message = b'[{"index": 0, "author": "+4930123456", "body": "Hi"}]'
        path = self.archive(desk, **{f"{'long' * 20}/{month}/messages.json": message for month in ("05", "06")})
        found = [one["session_id"] for one in await read(desk, path)]
        assert found == [f"{'long' * 20}/{month}/messages" for month in ("05", "06")]

    async def test_a_file_whose_name_is_a_date_may_have_any_format(self, desk: Desk) -> None:
        twilio, zendesk = (EXPORTS / name for name in ("twilio.json", "zendesk.ndjson"))
        files = {"day/2024-03-11.json": twilio.read_bytes(), "tickets.ndjson": zendesk.read_bytes()}
        found = [shown(one) for one in await read(desk, self.archive(desk, **files))]
        assert found == SESSIONS["zendesk.ndjson"] + SESSIONS["twilio.json"]

    async def test_other_files_beside_an_export_of_slack_are_read(self, desk: Desk) -> None:
        source = EXPORTS / "slack"
        files = {f"slack/{file.relative_to(source)}": file.read_bytes() for file in source.rglob("*.json")}
        files |= {"slack/quiet/2024-03-11.json": b"[]", "slack/quiet/canvas.json": b"{}"}
        files |= {"tickets/2024.ndjson": (EXPORTS / "zendesk.ndjson").read_bytes()}
        found = [shown(one) for one in await read(desk, self.archive(desk, **files))]
        assert sorted(found) == sorted(SESSIONS["slack"] + SESSIONS["zendesk.ndjson"])

    async def test_the_name_of_a_folder_need_not_be_utf_8(self, desk: Desk) -> None:
        folder = desk.folder / os.fsdecode(b"export-\xe9")
        folder.mkdir()
        wrong = folder / os.fsdecode(b"\xe9.json")
        wrong.write_text("{")
        assert str(await refused(desk, folder)).startswith("export-\\udce9/\\udce9.json: line 1")
        wrong.unlink()
        for channel in (b"caf\xe9", b"caf\xe8"):
            shutil.copytree(EXPORTS / "slack" / "general", folder / os.fsdecode(channel))
        found = [one["session_id"] for one in await read(desk, folder)]
        assert found == ["caf\\udce8-1710500000.000100", "caf\\udce9-1710500000.000100"]

    @pytest.mark.parametrize(
        "name", ["../../evil.json", "/etc/evil.json", "a/../../evil.json", "C:\\evil.json", "..\\evil.json"]
    )
    async def test_a_name_that_leads_out_of_an_archive_is_refused(self, name: str, desk: Desk) -> None:
        error = await refused(desk, self.archive(desk, **{name: (EXPORTS / "twilio.json").read_bytes()}))
        assert "leads out of the archive" in error.problem
        assert [path.name for path in desk.folder.rglob("*")] == ["export.zip"]

    async def test_an_archive_that_unpacks_to_too_much_is_refused(self, desk: Desk) -> None:
        error = await refused(desk, self.archive(desk, **{"a.json": b" " * 60_000_000}))
        assert str(error).startswith("export.zip: a.json: unpacks to more than 300 times its size")

    async def test_an_encrypted_archive_is_refused(self, desk: Desk) -> None:
        path = self.archive(desk, **{"a.json": b"[]"})
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
        assert str(await refused(desk, path)) == "export.zip: a.json: is encrypted: unpack the archive first"

    async def test_a_damaged_archive_is_refused(self, desk: Desk) -> None:
        path = self.archive(desk, **{"twilio.json": (EXPORTS / "twilio.json").read_bytes()})
        content = bytearray(path.read_bytes())
        content[100:140] = bytes(40)
        path.write_bytes(content)
        assert str(await refused(desk, path)).startswith("export.zip/twilio.json: cannot be read")

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"xl/workbook.xml": b"<a/>"}, "export.zip: is a workbook of Excel: save it as CSV"),
            ({"photo.jpg": b"\xff\xd8"}, "cannot be read: it has no file of chat sessions"),
            ({"users.json": b"{}", "a/2024-01-01.json": b"[]"}, "export.zip/users.json: must be a list of people"),
            (
                {"users.json": b"[]", "a/2024-01-01.json": b"[1]"},
                "export.zip/a/2024-01-01.json: line 1: 0: must be an object",
            ),
        ],
    )
    async def test_an_archive_without_chats_is_refused(self, files: dict[str, bytes], message: str, desk: Desk) -> None:
        assert message in str(await refused(desk, self.archive(desk, **files)))


async def test_the_parts_of_mixed_sessions_are_put_together(desk: Desk) -> None:
    """2,000 sessions whose messages take turns in the file."""
    path = desk.folder / "messages.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in (2, 0, 1):
            for at in range(2000):
                message = {
                    "conversation_sid": f"CH{at}",
                    "index": index,
                    "author": "+4930123456",
                    "body": f"{at}/{index}",
                }
                file.write(json.dumps(message) + "\n")
    found = await read(desk, path)
    assert [one["session_id"] for one in found] == [f"CH{at}" for at in range(2000)]
    assert [texts(one) for one in found] == [[f"{at}/{index}" for index in range(3)] for at in range(2000)]
