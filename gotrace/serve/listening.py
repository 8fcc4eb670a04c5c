"""Where gotrace serve listens, and who may ask."""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import ipaddress
import os
import socket
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gotrace.common.errors import GotraceError, UsageError

DEFAULT = "127.0.0.1:9470"
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 4096
_BACKLOG = 64


@dataclass(frozen=True)
class Address:
    """A host and a port, or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.path or self.host == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False


def address_of(text: str) -> Address:
    """The address that ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH`` means.

    Raises:
        UsageError: it is none.
    """
    if text.startswith("unix:"):
        if not text.removeprefix("unix:"):
            raise UsageError("--listen unix: has no path", "--listen unix:/run/gotrace.sock")
        return Address(path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or not host:
        raise UsageError(f"--listen {text} is no address", f"--listen {DEFAULT}, --listen unix:/run/gotrace.sock")
    return Address(host, int(port))


def read_token(path: Path) -> bytes:
    """The token in a file: its content without blanks around it.

    Raises:
        UsageError: it is too short or too long, or others may read the file.
        GotraceError: the file can't be read.
    """
    token = read_secret(path, "--token-file")
    if len(token) < _SHORTEST_TOKEN:
        what = f"--token-file {path} has {len(token)} characters: at least {_SHORTEST_TOKEN} are needed"
        raise UsageError(what, f"openssl rand -hex 32 > {path}")
    return token


def read_secret(path: Path, flag: str) -> bytes:
    """What a file has that a flag names, without blanks around it.

    Raises:
        UsageError: it is too long, or others may read the file.
        GotraceError: the file can't be read.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_TOKEN + 1)
    except OSError as error:
        raise GotraceError(f"{flag} {path} can't be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o007:
        raise UsageError(f"{flag} {path} may be read by everyone", f"chmod 600 {path}")
    if len(content) > _LONGEST_TOKEN:
        raise UsageError(f"{flag} {path} has more than {_LONGEST_TOKEN} bytes: it is no token", f"openssl rand -hex 32 > {path}")
    return content.strip()


def tls_of(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The context of a server with that certificate and key; None without.

    Raises:
        UsageError: one is missing.
        GotraceError: they can't be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together", "give both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise GotraceError(f"--tls-cert {certificate} and --tls-key {key} can't be used: {error}") from None
    return context


def bind(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
        GotraceError: that is not possible.
    """
    try:
        if address.path:
            return _bind_unix(address.path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        found = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
        found.setblocking(False)
        return found
    except (OSError, ValueError) as error:
        what = f"unix:{address.path}" if address.path else f"{address.host}:{address.port}"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise GotraceError(f"nothing can listen at {what}: {reason}", "another address: --listen 127.0.0.1:9471") from None


def _bind_unix(path: str) -> socket.socket:
    """A socket that only its owner may open, from its first moment on. That of a gotrace that was killed is replaced."""
    from tornado.netutil import bind_unix_socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
        probe.setblocking(False)  # BlockingIOError: somebody listens, and has too much to do
        probe.connect(path)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    before = os.umask(0o177)
    try:
        return bind_unix_socket(path, mode=0o600, backlog=_BACKLOG)
    finally:
        os.umask(before)


def shown(sock: socket.socket, tls: bool) -> str:
    """Where it listens, as a URL where there is one."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class Guard:
    """Who may ask. Without a token a request must name this machine as a browser on it would (Host): a name that an attacker has pointed
    to it is refused (DNS rebinding). A request from another site's page is refused in any case."""

    def __init__(self, address: Address, token: bytes | None) -> None:
        self._address = address
        self.token = token

    def host_is_right(self, host: str) -> bool:
        """Whether the header Host may have this value."""
        if self.token is not None or self._address.path:
            return True
        name = _host_name(host)
        if name in ("localhost", self._address.host):
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return False

    def origin_is_right(self, origin: str, host: str) -> bool:
        """Whether the header Origin is that of our own page, or there is none."""
        with suppress(ValueError):
            return not origin or urlsplit(origin).netloc == host
        return False

    def site_is_right(self, site: str, mode: str, destination: str) -> bool:
        """Whether the headers Sec-Fetch-Site, -Mode and -Dest, which browsers send, are those of our own page, of an address that was
        typed, or of a link that was followed. A page of another site can have images, scripts and frames asked for without an Origin: it
        can't read the answers, but finding them has a price."""
        return site in ("", "none", "same-origin") or mode == "navigate" and destination == "document"

    def knows(self, authorization: str) -> bool:
        """Whether the header Authorization has the token: as a bearer's, or as the password of any user."""
        if self.token is None:
            return True
        kind, _, given = authorization.partition(" ")
        found = given.strip().encode("utf-8", "replace")
        if kind.lower() == "basic":
            try:
                found = base64.b64decode(found, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                found = b""
        elif kind.lower() != "bearer":
            found = b""
        return hmac.compare_digest(found, self.token)


def _host_name(host: str) -> str:
    """The name in ``name``, ``name:port``, ``[::1]:port``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
