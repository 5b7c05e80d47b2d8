"""Requests of Twilio's: who signed them, and where they came to in public."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection, Request

from gateway.errors import RequestError, UnsupportedMediaType
from parley.domain.phone.signature import HEADER, SETTINGS_HEADER, Fields, is_signed
from parley.settings import Settings

FORM = "application/x-www-form-urlencoded"
# A webhook of Twilio's has some dozens.
MOST_FIELDS = 500
SOCKETS = {"http": "ws", "https": "wss"}


class NotSigned(RequestError):
    """The request does not have Twilio's signature."""

    status = 403


async def signed_form(request: Request) -> Mapping[str, str]:
    """The fields of a webhook, once its signature is checked. Of a repeated field it is the last one.

    Raises:
        NotSigned: Twilio did not sign it.
        UnsupportedMediaType: it is not a form.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != FORM:
        raise UnsupportedMediaType(f"the body must be {FORM}, as Twilio sends it")
    body = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise NotSigned(f"the form has more than {MOST_FIELDS} fields: Twilio signs none like it") from None
    check_signature(request, fields)
    return dict(fields)


def check_signature(connection: HTTPConnection, fields: Fields = ()) -> None:
    """Check that Twilio signed a webhook, or the upgrade to a WebSocket.

    Raises:
        NotSigned: the signature is missing or wrong, or no auth token is set to check it.
    """
    settings: Settings = connection.app.state.gateway.backend.settings
    selected = connection.headers.get(SETTINGS_HEADER)
    token = settings.twilio_auth_token
    key = settings.twilio_shared_key if selected is not None and settings.twilio_shared_key else token
    if token is None or key is None:
        raise NotSigned("TWILIO_AUTH_TOKEN is not set: this gateway takes no phone calls")
    url = requested_url(connection, settings)
    given = connection.headers.get(HEADER)
    if not is_signed(given, [key.get_secret_value()], url, fields, settings=selected):
        raise NotSigned(
            f"Twilio's signature does not fit {url.partition('?')[0]}: check TWILIO_AUTH_TOKEN, and "
            "PARLEY_PHONE_PUBLIC_URL if Twilio reaches the gateway under another address"
        )


def requested_url(connection: HTTPConnection, settings: Settings) -> str:
    """The address that a request came to in public, with its query."""
    scope = connection.scope
    path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    query = scope.get("query_string", b"").decode("latin-1")
    base = public_url(connection, settings, is_socket=scope["type"] == "websocket")
    return f"{base}{path.partition('?')[0]}{f'?{query}' if query else ''}"


def public_url(connection: HTTPConnection, settings: Settings, *, is_socket: bool) -> str:
    """The gateway's public address, without a path: as the operator says, as a trusted proxy says, or as requested."""
    if settings.phone_public_url is not None:
        base = settings.phone_public_url
    else:
        scheme = {"ws": "http", "wss": "https"}.get(connection.scope["scheme"], connection.scope["scheme"])
        base = f"{scheme}://{_host(connection, settings)}"
    scheme, _, host = base.partition("://")
    return f"{SOCKETS[scheme] if is_socket else scheme}://{host}"


def _host(connection: HTTPConnection, settings: Settings) -> str:
    """The server has changed the scheme to that of a trusted proxy already, but not the host."""
    forwarded = connection.headers.get("x-forwarded-host", "").partition(",")[0].strip()
    if forwarded and settings.gateway_trusted_proxies:
        return forwarded
    return connection.headers.get("host", "")
