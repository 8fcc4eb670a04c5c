"""Servers whose requests are spans by themselves: by which functions, each with the versions in which that was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gotrace.gobin.buildinfo import GoVersion


@dataclass(frozen=True)
class Server:
    """`choices`: sets of functions of which one covers each request once; the first is best. `only_with`: a function without which the
    server serves nothing that another one does not.

    Up to Go 1.`newest` (None: whatever the version) it is known that nothing finds the functions as methods of their types (an assertion
    to an interface, package reflect), and, where their address is in data, that all those calls are made in `by_interface`. `followed_by`:
    callers that, when the function has returned, do nothing that takes time before they call that function.
    """

    what: str
    choices: tuple[tuple[str, ...], ...]
    newest: int | None = None
    only_with: str = ""
    by_interface: tuple[str, ...] = ()
    followed_by: Mapping[str, str] = field(default_factory=dict)

    def knows(self, version: GoVersion | None) -> bool:
        """Whether what is said of the callers holds for a program built with that version."""
        return self.newest is None or (version is not None and version < GoVersion(self.newest + 1))


_GRPC = "google.golang.org/grpc.(*Server)"
SERVERS = (
    # HTTP/1 and HTTP/2. Checked: Go 1.19 to 1.27 (net/http/server.go: conn.serve, initALPNRequest, from 1.24 on unencryptedHTTP2Request, in
    # 1.27 http3ServerHandler; conn.serve cancels the request's context in between). In 1.27 HTTP/2 without TLS reaches it through an
    # interface, in net/http/http2.go only.
    Server(
        "HTTP", (("net/http.serverHandler.ServeHTTP",),), newest=27, by_interface=("net/http.http2Handler.ServeHTTP",),
        followed_by={"net/http.(*conn).serve": "net/http.(*conn).hijacked"},
    ),
    # gRPC-Go. Checked: 1.33 (etcd 3.4, containerd 1.6). Streams may last for days: they are spans of their own.
    Server("gRPC", ((f"{_GRPC}.processUnaryRPC", f"{_GRPC}.processStreamingRPC"), (f"{_GRPC}.handleStream",))),
    # net/rpc. Checked: Go 1.19 to 1.27.
    Server("net/rpc", (("net/rpc.(*service).call",),), newest=27),
    # golang.org/x/net/http2 itself serves HTTP/2 without TLS only (h2c): with TLS it hands requests to net/http.
    Server(
        "h2c (golang.org/x/net/http2)", (("golang.org/x/net/http2.(*serverConn).runHandler",),),
        only_with="golang.org/x/net/http2/h2c.h2cHandler.ServeHTTP",
    ),
)
