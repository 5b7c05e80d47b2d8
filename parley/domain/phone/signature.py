"""Twilio's signature of a request: an HMAC over its URL and the sorted fields of its form."""

import base64
import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

HEADER = "x-twilio-signature"
# Names the algorithm, where a rule of the account selects another one than HMAC-SHA1.
SETTINGS_HEADER = "x-twilio-webhooks-signature-settings"
ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
STANDARD_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}

Fields = Iterable[tuple[str, str]]


def signature(secret: str, url: str, fields: Fields = (), algorithm: str = "HMAC_SHA1") -> str:
    """The signature of a request.

    Args:
        secret: the account's auth token; or the secret of a shared key, for HMAC_SHA256.
        url: as Twilio requested it, with its query: `https://…`, or `wss://…` for a WebSocket.
        fields: of the form. A field that is repeated counts once with each of its values.
        algorithm: a name of `ALGORITHMS`.
    """
    signed = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.digest(secret.encode(), signed.encode(), ALGORITHMS[algorithm])).decode()


def algorithm_of(settings: str | None) -> str | None:
    """The algorithm that the settings header selects: HMAC-SHA1 without the header; None for an unknown one."""
    if settings is None:
        return "HMAC_SHA1"
    named = re.search(r"(?:^|,)\s*algorithm\s*=\s*([^,\s]+)", settings, re.IGNORECASE)
    name = named[1].upper().replace("-", "_") if named else ""
    return name if name in ALGORITHMS else None


def is_signed(
    given: str | None, secrets: Iterable[str], url: str, fields: Fields = (), *, settings: str | None = None
) -> bool:
    """Whether a request was signed with one of these secrets.

    Twilio signs a URL with a standard port sometimes with it and sometimes without, so both are right.

    Args:
        given: the signature header; None: there is none.
        settings: the settings header; None: there is none.
    """
    algorithm, fields = algorithm_of(settings), tuple(fields)
    if not given or algorithm is None:
        return False
    known = [signature(secret, one, fields, algorithm) for secret in secrets for one in _forms(url)]
    return any(hmac.compare_digest(given.encode(), one.encode()) for one in known)


def _forms(url: str) -> tuple[str, ...]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return (url,)
    standard = STANDARD_PORTS.get(parts.scheme)
    if standard is None or port not in (None, standard):
        return (url,)
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    return tuple(urlunsplit(parts._replace(netloc=netloc)) for netloc in (host, f"{host}:{standard}"))
