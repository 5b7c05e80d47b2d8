"""Images in a request: what the vendors refuse. Nothing is fetched from an address."""

import base64
import binascii
import re

DATA_URL = re.compile(r"data:([^;,]*);base64,(.*)", re.DOTALL)
# How each format begins.
STARTS = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
# What an image counts, whatever its size. Both vendors count at least so many.
TOKENS = 85
OPENAI_BYTES, ANTHROPIC_BYTES = 20 * 2**20, 5 * 2**20
UNSUPPORTED = (
    "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
    "['png', 'jpeg', 'gif', 'webp']."
)


def openai_image_problem(url: object) -> str | None:
    """Return OpenAI's message for the first rule that an image's URL breaks."""
    if not isinstance(url, str):
        return "Invalid type for 'image_url.url': expected a string."
    if url.startswith(("http://", "https://")):
        return None
    found = DATA_URL.fullmatch(url)
    if found is None:
        return f"Invalid image URL: '{url[:50]}'. Expected a valid URL or a base64-encoded data URL."
    data = _decoded(found[2])
    if data is None:
        return "Invalid base64 image_url."
    if len(data) > OPENAI_BYTES:
        return "Image size is too large: the limit is 20 MB."
    return None if _format(data) == found[1] else UNSUPPORTED


def anthropic_image_problem(media_type: object, data: object) -> str | None:
    """Return Anthropic's message for the first rule that a base64 source breaks."""
    if media_type not in STARTS:
        return "media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
    decoded = _decoded(data) if isinstance(data, str) else None
    if decoded is None:
        return "data: invalid base64 data"
    if len(decoded) > ANTHROPIC_BYTES:
        return f"image exceeds 5 MB maximum: {len(decoded)} bytes > {ANTHROPIC_BYTES} bytes"
    found = _format(decoded)
    if found is None:
        return "Could not process image"
    if found != media_type:
        return f"Image does not match the provided media type {media_type}"
    return None


def _decoded(data: str) -> bytes | None:
    try:
        return base64.b64decode(data, validate=True) or None
    except binascii.Error:
        return None


def _format(data: bytes) -> str | None:
    return next((name for name, starts in STARTS.items() if data.startswith(starts)), None)
