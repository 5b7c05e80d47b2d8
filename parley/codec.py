"""Encryption of the payloads in Temporal's histories: AES-256-GCM, with a key id in each payload for rotation."""

import base64
import binascii
import os
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from parley.domain.errors import InvalidInput

ENCODING = b"binary/encrypted"
KEY_ID = "encryption-key-id"
KEY_BYTES, NONCE_BYTES = 32, 12
WHERE = "PARLEY_CODEC_KEYS"
OFF = "off"
"""In place of keys: leave payloads in clear text."""


class EncryptionCodec(PayloadCodec):
    """Encrypts with the first key and decrypts with any. A payload in clear text, from before, stays readable."""

    def __init__(self, keys: str) -> None:
        """Read the keys.

        Args:
            keys: `id:key` pairs, separated by commas; a key is 32 bytes as base64. `off`: no key, which leaves payloads
                in clear text.

        Raises:
            InvalidInput: a pair is not valid. The error does not contain the key.
        """
        pairs = [] if keys == OFF else [_pair(pair.strip()) for pair in keys.split(",")]
        self._ciphers = {key_id: AESGCM(key) for key_id, key in pairs}
        self._keys = [key for _, key in pairs]
        if len(self._ciphers) < len(pairs):
            raise InvalidInput("has the same key id twice", where=WHERE)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that decrypt; the first one encrypts. Without any, payloads stay in clear text."""
        return tuple(self._ciphers)

    def tokens(self, purpose: str) -> tuple[str, ...]:
        """A token for each key, in their order, with which processes that have the keys recognise each other.

        A token does not show its key. A process sends its first one, and accepts each of its own.

        Args:
            purpose: what the token is for; tokens of different purposes are different.
        """
        return tuple(_token(key, purpose) for key in self._keys)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt whole payloads, with their metadata."""
        return [self._encrypted(payload, self.key_ids[0]) for payload in payloads] if self.key_ids else [*payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what is encrypted.

        Raises:
            InvalidInput: no key decrypts a payload.
        """
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, payload: Payload, key: str) -> Payload:
        nonce, key_id = os.urandom(NONCE_BYTES), key.encode()
        data = nonce + self._ciphers[key].encrypt(nonce, payload.SerializeToString(), key_id)
        return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id}, data=data)

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        key_id = payload.metadata.get(KEY_ID, b"")
        cipher = self._ciphers.get(key_id.decode(errors="replace"))
        nonce, data = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            if cipher is not None:
                return Payload.FromString(cipher.decrypt(nonce, data, key_id))
        except (InvalidTag, ValueError):
            pass
        raise InvalidInput("no key of PARLEY_CODEC_KEYS decrypts this payload: add the key that encrypted it")


def new_keys() -> str:
    """One new random key, as an `id:key` pair."""
    return f"{secrets.token_hex(4)}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def _token(key: bytes, purpose: str) -> str:
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=f"parley/{purpose}".encode()).derive(key)
    return base64.urlsafe_b64encode(derived).decode()


def _pair(pair: str) -> tuple[str, bytes]:
    key_id, _, encoded = pair.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key_id or not key_id.isascii() or len(key) != KEY_BYTES:
        raise InvalidInput("must be id:key pairs, each key 32 bytes as base64 (openssl rand -base64 32)", where=WHERE)
    return key_id, key
