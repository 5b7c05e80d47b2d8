"""The most tokens of an image, by its vendor, its model and its size."""

import base64
from decimal import Decimal
from typing import Any, Literal

import pytest

from parley.domain.images import ANTHROPIC_MOST, LOCAL_MOST, OPENAI_MOST, most_image_tokens
from parley.domain.pricing import ConfiguredRates, upper_bound
from parley.domain.requests import ChatRequest, ImagePart, Message, Provider, Tool

OPENAI, ANTHROPIC, LOCAL = Provider.OPENAI, Provider.ANTHROPIC, Provider.LOCAL
Format = Literal["png", "gif", "webp", "jpeg"]


def header(kind: str, width: int, height: int) -> bytes:
    match kind:
        case "png":
            return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4)
        case "gif":
            return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little")
        case "VP8X":
            return (
                b"RIFF\0\0\0\0WEBPVP8X"
                + bytes(8)
                + (width - 1).to_bytes(3, "little")
                + (height - 1).to_bytes(3, "little")
            )
        case "VP8L":
            bits = (width - 1) | (height - 1) << 14
            return b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + bits.to_bytes(4, "little") + bytes(9)
        case "VP8 ":
            sizes = width.to_bytes(2, "little") + height.to_bytes(2, "little")
            return b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + sizes
        case _:
            frame = b"\xff\xc0\0\x11\x08" + height.to_bytes(2) + width.to_bytes(2)
            return b"\xff\xd8\xff\xe0\0\x04ab" + frame + bytes(12)


def image(width: int, height: int, kind: str = "png", **fields: Any) -> ImagePart:
    of: dict[str, Format] = {"VP8X": "webp", "VP8L": "webp", "VP8 ": "webp", "jpeg": "jpeg", "gif": "gif", "png": "png"}
    data = base64.b64encode(header(kind, width, height)).decode()
    return ImagePart(media_type=f"image/{of[kind]}", data=data, **fields)


LINK = ImagePart(url="https://example.com/lift.png")


@pytest.mark.parametrize("kind", ["png", "gif", "VP8X", "VP8L", "VP8 ", "jpeg"])
def test_the_size_is_read_from_the_header_of_every_format(kind: str):
    assert most_image_tokens(ANTHROPIC, "claude-haiku-4-5", image(280, 560, kind)) == 210  # 280 x 560 / 750, rounded up


@pytest.mark.parametrize(
    ("provider", "model", "one", "tokens"),
    [
        (OPENAI, "gpt-4o", image(1024, 1024), 85 + 4 * 170),
        (OPENAI, "gpt-4o-2024-08-06", image(2048, 4096), 85 + 8 * 170),
        (OPENAI, "gpt-4o", image(4096, 8192, detail="low"), 85),
        (OPENAI, "gpt-4o", LINK, 85 + 8 * 170),
        (OPENAI, "gpt-4o-mini", image(1024, 1024), 2833 + 4 * 5667),
        (OPENAI, "gpt-4.1-mini", image(1024, 1024), 1659),  # 1,024 patches times 1.62, rounded up
        (OPENAI, "gpt-4.1-mini", image(1800, 2400), 2489),  # never more than 1,536 patches
        (OPENAI, "gpt-9", image(10, 10), OPENAI_MOST),
        (OPENAI, "gpt-5.2", LINK, OPENAI_MOST),
        (ANTHROPIC, "claude-haiku-4-5", image(1000, 1000), 1334),
        (ANTHROPIC, "claude-haiku-4-5", image(8000, 8000), ANTHROPIC_MOST),
        (ANTHROPIC, "claude-haiku-4-5", LINK, ANTHROPIC_MOST),
        (LOCAL, "llama", image(10, 10), LOCAL_MOST),
    ],
    ids=str,
)
def test_an_image_counts_by_the_published_formula(provider: Provider, model: str, one: ImagePart, tokens: int):
    assert most_image_tokens(provider, model, one) == tokens


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0", b"nothing", header("png", 0, 9)])
@pytest.mark.parametrize("kind", ["png", "gif", "webp", "jpeg"])
def test_an_image_without_a_readable_size_counts_with_the_most(kind: Format, data: bytes):
    broken = ImagePart(media_type=f"image/{kind}", data=base64.b64encode(data or b"x").decode())
    assert most_image_tokens(ANTHROPIC, "claude", broken) == ANTHROPIC_MOST


def test_the_size_is_read_behind_a_long_preview():
    frame = header("jpeg", 1000, 1000)
    preview = b"\xff\xe1" + (60_000).to_bytes(2) + bytes(59_998)
    data = frame[:2] + preview * 2 + frame[2:]
    long = ImagePart(media_type="image/jpeg", data=base64.b64encode(data).decode())
    assert most_image_tokens(ANTHROPIC, "claude", long) == 1334


@pytest.mark.parametrize(("provider", "model"), [(OPENAI, "gpt-4o-mini"), (ANTHROPIC, "claude-haiku-4-5")])
def test_the_upper_bound_covers_images_tools_and_calls(provider: Provider, model: str):
    rates = ConfiguredRates(elevenlabs_usd_per_hour=Decimal(1), elevenlabs_usd_per_thousand_characters=Decimal("0.10"))
    tool = Tool(
        name="f", description="Finds it.", parameters={"type": "object", "properties": {"a": {"type": "string"}}}
    )
    plain = ChatRequest(messages=(Message(role="user", content="Hi"),), max_tokens=10)
    pictured = plain.model_copy(update={"messages": (Message(role="user", content=(LINK,)),)})
    equipped = plain.model_copy(update={"tools": (tool,)})
    bounds = [upper_bound(provider, model, one, rates)[0] for one in (plain, equipped, pictured)]
    assert bounds == sorted(bounds)
    assert bounds[2] > 2 * bounds[0]
