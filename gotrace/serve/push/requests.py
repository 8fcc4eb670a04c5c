"""One request to an endpoint, by Tornado's client, and what its answer means."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from gotrace import __version__
from gotrace.common.errors import GotraceError, UsageError
from gotrace.render.text import sanitize
from gotrace.serve.listening import read_secret
from gotrace.serve.push.options import Endpoint

CONNECT_S, ANSWER_S = 5.0, 10.0
_MOST_HEADER, _MOST_ANSWER = 16 << 10, 4 << 20
"""The latter is what OTLP recommends."""
_LONGEST_SAID = 300
_TLS_S = 600.0
"""How long certificates are trusted before the files are read again."""
_LONGEST_AFTER_S = 600.0
_BEARER = re.compile(rb"[\x21-\x7e]+")


class Outcome(Enum):
    """What became of a request: it was taken, it should be tried again, it is refused until something is set right, or for good."""

    TAKEN = "taken"
    AGAIN = "again"
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """`said` is one line for the user; `after_s`: when to try again, if the endpoint says so; `rejected`: profiles that were not taken."""

    outcome: Outcome
    said: str = ""
    after_s: float | None = None
    rejected: int = 0


_HELD = frozenset((301, 302, 303, 307, 308, 401, 403, 407))
"""Something has to be set right: a token, or an address that has moved. The body is none the worse."""
_AGAIN = {"pyroscope": frozenset((408, 425, 429, 500, 502, 503, 504)), "otlp": frozenset((429, 502, 503, 504))}
"""For OTLP those that its specification lists: no others may be tried again."""


class Client:
    """Sends to one endpoint. Redirects are not followed: the credentials are for this address alone. Used in one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """
        Raises:
            GotraceError: a file with credentials or certificates can't be used.
        """
        self._endpoint = endpoint
        self._client: SimpleAsyncHTTPClient | None = None
        self._tls: ssl.SSLContext | None = None
        self._tls_until = 0.0
        self._secrets()
        self._context()

    async def send(self, body: bytes, most_s: float = ANSWER_S) -> Answer:
        """Sends a body; takes at most `most_s`. Never raises what an endpoint or the network is the cause of."""
        kind = self._endpoint.kind
        try:
            authorization, secrets = self._secrets()
            request = HTTPRequest(
                self._endpoint.url, "POST", self._headers(authorization), body, connect_timeout=min(CONNECT_S, most_s),
                request_timeout=most_s, follow_redirects=False, decompress_response=False, ssl_options=self._context(),
            )
        except GotraceError as error:
            return Answer(Outcome.HELD, str(error))
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(force_instance=True, max_header_size=_MOST_HEADER, max_body_size=_MOST_ANSWER)
        try:
            found = await asyncio.wait_for(self._client.fetch(request, raise_error=False), most_s + 1)
        except asyncio.TimeoutError:
            return Answer(Outcome.AGAIN, f"no answer in {most_s:.0f} s")
        except Exception as error:  # of many kinds: names, sockets, TLS, HTTP
            return Answer(Outcome.AGAIN, _one_line(_what_of(error), secrets))
        return judged(kind, found.code, found.headers, found.body or b"", secrets)

    def close(self) -> None:
        """Ends it."""
        if self._client is not None:
            self._client.close()

    def _headers(self, authorization: str) -> dict[str, str]:
        kind, tenant = self._endpoint.kind, self._endpoint.tenant
        found = {"User-Agent": f"gotrace/{__version__}"}
        if kind == "otlp":
            found |= {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        else:
            found |= {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
        if tenant:
            found["X-Scope-OrgID"] = tenant
        if authorization:
            found["Authorization"] = authorization
        return found

    def _secrets(self) -> tuple[str, tuple[str, ...]]:
        """The header, "" if there is none, and what must not be told of it. The file is read each time: tokens are replaced."""
        endpoint = self._endpoint
        if endpoint.bearer is not None:
            token = read_secret(endpoint.bearer, "--push-bearer")
            if not _BEARER.fullmatch(token):
                raise UsageError(f"--push-bearer {endpoint.bearer} has no token", "one line without blanks")
            return f"Bearer {token.decode()}", (token.decode(),)
        if endpoint.basic is not None:
            pair = read_secret(endpoint.basic, "--push-basic")
            user, colon, password = pair.partition(b":")
            if not colon or not password or any(byte < 0x20 for byte in pair):
                raise UsageError(f"--push-basic {endpoint.basic} has no user and password", "one line: USER:PASSWORD")
            encoded = base64.b64encode(pair).decode()
            return f"Basic {encoded}", (encoded, password.decode("utf-8", "replace"))
        return "", ()

    def _context(self) -> ssl.SSLContext | None:
        if not self._endpoint.secure:
            return None
        if self._tls is None or time.monotonic() > self._tls_until:
            authority = self._endpoint.authority
            try:
                self._tls = ssl.create_default_context(cafile=str(authority) if authority is not None else None)
            except (OSError, ssl.SSLError) as error:
                raise GotraceError(f"--push-ca {authority} can't be used: {error}") from None
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls_until = time.monotonic() + _TLS_S
        return self._tls


def judged(kind: str, status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...] = ()) -> Answer:
    """What an answer means."""
    if 200 <= status < 300:
        rejected, said = _partial(body) if kind == "otlp" else (0, "")
        return Answer(Outcome.TAKEN, _one_line(said, secrets), rejected=rejected)
    said = _one_line(f"HTTP {status}: {_message(kind, headers, body)}".removesuffix(": "), secrets)
    if status in _HELD:
        return Answer(Outcome.HELD, said)
    if status in _AGAIN[kind]:
        return Answer(Outcome.AGAIN, said, _after_s(headers.get("Retry-After", "")))
    return Answer(Outcome.REFUSED, said)


def _message(kind: str, headers: Mapping[str, str], body: bytes) -> str:
    """What an error says of itself: JSON as Connect has it, or text."""
    if headers.get("Location"):
        return f"the address has moved to {headers['Location']}: redirects are not followed"
    content = headers.get("Content-Type", "")
    if content.startswith("application/json"):
        try:
            found = json.loads(body)
            return str(found.get("message", "")) if isinstance(found, dict) else ""
        except (ValueError, RecursionError):
            return ""
    return body[: 2 * _LONGEST_SAID].decode("utf-8", "replace") if content.startswith("text/plain") else ""


def _partial(body: bytes) -> tuple[int, str]:
    """How many profiles of an OTLP request were not taken, and why."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceResponse

    answer: Any = ExportProfilesServiceResponse()
    try:
        answer.ParseFromString(body)
    except DecodeError:  # as of a server that answers in JSON, or with nothing
        return 0, ""
    return max(0, answer.partial_success.rejected_profiles), answer.partial_success.error_message


def _after_s(text: str) -> float | None:
    """Retry-After: seconds, or a date."""
    if text.strip().isdecimal():
        return min(_LONGEST_AFTER_S, float(text[:10]))
    try:
        return min(_LONGEST_AFTER_S, max(0.0, parsedate_to_datetime(text).timestamp() - time.time()))
    except (TypeError, ValueError, OverflowError):
        return None


def _what_of(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error) or type(error).__name__


def _one_line(text: str, secrets: tuple[str, ...]) -> str:
    """Text of a server, which may repeat what it was sent."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return sanitize(" ".join(text.split()), _LONGEST_SAID)
