"""Reads a multipart form. Small, since the one endpoint that takes a form is the only reader."""

import re
from dataclasses import dataclass

BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
NAME = re.compile(r'\bname="([^"]*)"')


class NotMultipart(ValueError):
    """The body is no multipart form."""


@dataclass(frozen=True)
class Form:
    """Every part's bytes by name; of a repeated name, the last."""

    parts: dict[str, bytes]

    def text(self, name: str, default: str = "") -> str:
        return self.parts[name].decode(errors="replace") if name in self.parts else default

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "1")


def parse(content_type: str, body: bytes) -> Form:
    boundary = BOUNDARY.search(content_type)
    if not content_type.startswith("multipart/form-data") or boundary is None:
        raise NotMultipart(f"expected multipart/form-data, got {content_type or 'nothing'}")
    delimiter = b"\r\n--" + boundary[1].encode()
    sections = (b"\r\n" + body).split(delimiter)[1:]
    if not sections or not sections[-1].startswith(b"--"):
        raise NotMultipart("the closing boundary is missing")
    parts: dict[str, bytes] = {}
    for section in sections[:-1]:
        head, _, content = section.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = NAME.search(head.decode(errors="replace"))
        if name:
            parts[name[1]] = content
    return Form(parts)
