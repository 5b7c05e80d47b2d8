"""Twilio's signature of a request: an HMAC over the URL and the sorted form."""

import base64
import hmac
from collections.abc import Iterable

HEADER = "X-Twilio-Signature"
SETTINGS_HEADER = "X-Twilio-Webhooks-Signature-Settings"
ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
SHARED_KEY = "webhooks_sharedkey_simulator"

Form = Iterable[tuple[str, str]]


def sign(token: str, url: str, form: Form = (), algorithm: str = "HMAC_SHA1") -> str:
    """The signature of a request.

    Args:
        token: the account's auth token, or the secret of a shared key for HMAC_SHA256.
        url: as the server is named in public, with its query. A WebSocket's is the `url` of the TwiML, unchanged.
        form: the fields of a POST. A repeated field counts with each different value.
        algorithm: HMAC_SHA1 or HMAC_SHA256.
    """
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), ALGORITHMS[algorithm])).decode()


def headers(token: str, url: str, form: Form = (), algorithm: str = "HMAC_SHA1") -> dict[str, str]:
    """The headers that a signed request has."""
    found = {HEADER: sign(token, url, form, algorithm)}
    if algorithm != "HMAC_SHA1":
        found[SETTINGS_HEADER] = f"key={SHARED_KEY},algorithm={algorithm}"
    return found
