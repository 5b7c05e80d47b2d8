"""Which replies follow a response schema."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from parley.domain.generate.replies import parsed

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "scores": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "scores": [1, 2]}'
VALUE = {"name": "Ada", "scores": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```",
        f"{GOOD}{GOOD}",
        GOOD[:-3],
        '{"name": NaN}',
        '{"name": -Infinity}',
        '{"name": 1e999}',
        "[" * 100_000,
        f'{{"name": {"9" * 10_000}}}',
        "[" * 150 + "]" * 150,
    ],
)
def test_other_texts_are_not_json_and_the_problem_is_one_short_line(text: str):
    value, problem = parsed(text, {})
    assert value is None
    assert problem.startswith("the reply is not JSON: ")
    assert "\n" not in problem
    assert len(problem) <= 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "the reply: 'name' is a required property"),
        ('{"name": 7}', "name: 7 is not of type 'string'"),
        ('{"name": "Ada", "scores": [1, "two"]}', "scores.1: 'two' is not of type 'integer'"),
        ('{"name": "Ada", "age": 1}', "the reply: Additional properties are not allowed ('age' was unexpected)"),
        ("[]", "the reply: [] is not of type 'object'"),
    ],
)
def test_a_violation_of_the_schema_names_its_place(text: str, problem: str):
    assert parsed(text, SCHEMA) == (None, problem)


def test_the_problem_of_a_long_value_is_short():
    _, problem = parsed(f'{{"name": ["{"long " * 500}"]}}', SCHEMA)
    assert problem.startswith("name: [")
    assert len(problem) <= 200


def test_null_may_be_the_answer():
    assert parsed("null", {"type": "null"}) == (None, "")


def test_unstorable_characters_are_replaced():
    assert parsed(r'{"na\u0000me": ["a\ud800b"]}', {}) == ({"na�me": ["a�b"]}, "")


def test_a_schema_is_never_fetched():
    asked: list[str] = []

    class Schemas(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with HTTPServer(("127.0.0.1", 0), Schemas) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/schema.json"
        value, problem = parsed(GOOD, {"$ref": address})
        server.shutdown()
    assert (value, problem) == (None, f"the schema refers to '{address}', which it does not hold")
    assert asked == []
