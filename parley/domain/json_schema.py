"""Parts of the JSON schemas that replies must follow."""

from typing import Any


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object schema as the vendors' strict modes require it: every property is required, and no other is allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
