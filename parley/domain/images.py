"""The tokens of an image: the most that a vendor counts, by the formulas that vendors publish, and a usual number."""

import base64
from collections.abc import Iterator
from math import ceil

from parley.domain.requests import ImagePart, Provider

# https://platform.claude.com/docs/en/build-with-claude/vision: one token for each 28 by 28 pixels, and earlier one for
# each 750 pixels. A larger image is made smaller: to 4,784 tokens for the models with the highest resolution.
ANTHROPIC_PATCH, ANTHROPIC_PIXELS_PER_TOKEN, ANTHROPIC_MOST = 28, 750, 5_000
# https://developers.openai.com/api/docs/guides/images-vision#calculating-costs. Older models have a number of tokens
# for an image, and one for each tile of 512 pixels, at most 8: an image is made smaller to fit 2,048 by 768 pixels.
OPENAI_TILES = {
    "gpt-4-turbo-": (85, 170),
    "gpt-4o-": (85, 170),
    "gpt-4o-mini-": (2833, 5667),
    "gpt-4.1-": (85, 170),
    "gpt-5-": (70, 140),
    "o1-": (75, 150),
    "o3-": (75, 150),
}
TILE, MOST_TILES, SHORT_SIDE = 512, 8, 768
# Other models count patches of 32 pixels, at most 1,536, times a factor.
OPENAI_PATCHES = {
    "gpt-4.1-mini-": 1.62,
    "gpt-4.1-nano-": 2.46,
    "gpt-5-mini-": 1.62,
    "gpt-5-nano-": 2.46,
    "o4-mini-": 1.72,
}
PATCH, MOST_PATCHES = 32, 1536
OPENAI_MOST = 2833 + MOST_TILES * 5667
# The largest default of a common local model, Qwen2-VL: 12,845,056 pixels in patches of 28 by 28.
LOCAL_MOST = 16_384
# About, where it is not known which model reads the image. By the pages above, 1,024 by 1,024 pixels are 1,369 or 1,399
# tokens at Anthropic, and at OpenAI 765 by tiles (gpt-4o) or 1,659 by patches (gpt-4.1-mini).
IMAGE_TOKENS = 1500
# A header with a preview inside can be long.
HEADER_CHARACTERS = 4 * 200_000


def most_image_tokens(provider: Provider, model: str, image: ImagePart) -> int:
    """The most tokens of an image. Where its size is not known, as behind a URL, it is the most for any image."""
    size = _size(image)
    if provider is Provider.ANTHROPIC:
        return min(_anthropic(*size), ANTHROPIC_MOST) if size else ANTHROPIC_MOST
    return _openai(model, size, image) if provider is Provider.OPENAI else LOCAL_MOST


def _anthropic(width: int, height: int) -> int:
    patches = ceil(width / ANTHROPIC_PATCH) * ceil(height / ANTHROPIC_PATCH)
    return max(patches, ceil(width * height / ANTHROPIC_PIXELS_PER_TOKEN))


def _openai(model: str, size: tuple[int, int] | None, image: ImagePart) -> int:
    name = f"{model.removeprefix('ft:')}-"
    prefix = max((one for one in (*OPENAI_TILES, *OPENAI_PATCHES) if name.startswith(one)), key=len, default="")
    if prefix in OPENAI_PATCHES:
        patches = ceil(size[0] / PATCH) * ceil(size[1] / PATCH) if size else MOST_PATCHES
        return ceil(min(patches, MOST_PATCHES) * OPENAI_PATCHES[prefix])
    if prefix in OPENAI_TILES:
        base, tile = OPENAI_TILES[prefix]
        return base if image.detail == "low" else base + tile * (_tiles(*size) if size else MOST_TILES)
    return OPENAI_MOST


def _tiles(width: int, height: int) -> int:
    """The tiles of an image. The page leaves open whether a small image is enlarged: it counts as if it were."""
    scale = max(SHORT_SIDE / min(width, height), 1)
    return min(ceil(width * scale / TILE) * ceil(height * scale / TILE), MOST_TILES)


def _size(image: ImagePart) -> tuple[int, int] | None:
    """Width and height in pixels, from the header of the data; None where it has none."""
    if image.data is None:
        return None
    head = image.data[:HEADER_CHARACTERS]
    data = base64.b64decode(head[: len(head) // 4 * 4])
    found = {"image/png": _png, "image/gif": _gif, "image/webp": _webp, "image/jpeg": _jpeg}[image.media_type or ""](
        data
    )
    return found if found and min(found) > 0 else None


def _png(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _gif(data: bytes) -> tuple[int, int] | None:
    if data[:4] != b"GIF8" or len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[:4] != b"RIFF" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
        case _:
            return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """The largest size that a frame of the file names: a preview has a frame of its own."""
    frames = [(int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])) for at in _frames(data)]
    return max(frames, key=lambda size: size[0] * size[1], default=None)


def _frames(data: bytes) -> Iterator[int]:
    """Where the frame headers of a JPEG file begin."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            yield at
        if marker == 0xDA:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
