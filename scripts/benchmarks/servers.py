"""Debian's packages of servers, each started on loopback in a folder of its own, with a suitable load."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bootstrap import ROOT

FOLDER = ROOT / ".cache/servers"
_CLIENTS = 4
_PAUSE_S = 0.004
_START_S = 30


class NotStarted(Exception):
    """The server could not be had, ended, or did not answer in time."""


@dataclass(frozen=True)
class Place:
    """Where one server runs: its folder, and ports that were free a moment ago."""

    folder: Path
    port: int
    other_port: int

    def write(self, name: str, text: str) -> Path:
        """A file of the server's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


Ask = Callable[[http.client.HTTPConnection, int], object]


@dataclass(frozen=True)
class Server:
    """A package of a release, the command by which its program is started, and one request of its load."""

    release: str
    package: str
    program: str
    """Path in the package."""
    command: Callable[[Place, str], list[str]]
    """By place and the program's path."""
    ask: Ask | None
    """Sends the request of that number; None: it speaks no HTTP (`converse`)."""
    ready: str = "/"
    environment: Callable[[Place], dict[str, str]] = lambda place: {}
    prepare: Ask | None = None
    converse: Callable[[socket.socket, threading.Event], Iterator[None]] | None = None
    goroutines: str = ""
    """Where net/http/pprof answers on one of its ports; "" where it does not."""

    @property
    def name(self) -> str:
        return f"{self.package} ({self.release})"

    @property
    def path(self) -> Path:
        return FOLDER / self.release / self.package / self.program


def unpack(servers: list[Server]) -> None:
    """Fetches and unpacks the packages that are not there yet; installs nothing."""
    for release, group in itertools.groupby(sorted(servers, key=lambda server: server.release), key=lambda server: server.release):
        packages = [server.package for server in group if not server.path.exists()]
        if packages:
            command = '. scripts/lib.sh; release=$1; shift; exclusively unpack_packages "$release" "$CACHE/servers/$release" "$@"'
            subprocess.run(["bash", "-euo", "pipefail", "-c", command, "servers", release, *packages], cwd=ROOT, check=True)


@contextlib.contextmanager
def running(server: Server, folder: Path) -> Iterator[tuple[int, Place]]:
    """The server, ready and prepared; it is ended on leaving, and its process group with it.

    Raises:
        NotStarted.
    """
    if not server.path.exists():
        raise NotStarted(f"{server.release} offers no {server.package}")
    folder.mkdir(parents=True)
    place = Place(folder, *_free_ports())
    command = server.command(place, str(server.path))
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], **server.environment(place)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
    try:
        _await(server, place, process)
        if server.prepare is not None:
            server.prepare(_connection(place), 0)
        yield process.pid, place
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(server: Server, place: Place, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.ask is None:
                socket.create_connection(("127.0.0.1", place.port), 1).close()
                return
            if request(_connection(place), "GET", server.ready)[0] < 500:
                return
        time.sleep(0.1)
    said = (place.folder / "log").read_text(errors="replace").strip().splitlines()[-3:]
    raise NotStarted(f"{server.name} did not start: {' / '.join(said)}")


class Load:
    """Clients that send one request after the other until they are told to end. A context manager."""

    def __init__(self, server: Server, place: Place) -> None:
        self._server, self._place, self._end = server, place, threading.Event()
        self._numbers = itertools.count(1)
        self.answered = 0
        self.failed = 0
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(_CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(15)

    def _client(self) -> None:
        if self._server.ask is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._place.port), 5) as connection:
                for _ in self._server.converse(connection, self._end):
                    self.answered += 1
            return
        connection = _connection(self._place)
        while not self._end.is_set():
            try:
                self._server.ask(connection, next(self._numbers))
                self.answered += 1
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
            self._end.wait(random.expovariate(1 / _PAUSE_S))
        connection.close()


def _connection(place: Place) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | str | dict | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """One request on a kept connection. A body that is a dict goes as JSON."""
    if isinstance(body, dict | list):
        body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


# ---- the servers -----------------------------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _etcd(place: Place, program: str) -> list[str]:
    clients, peers = f"http://127.0.0.1:{place.port}", f"http://127.0.0.1:{place.other_port}"
    return [
        program, "--data-dir", str(place.folder / "data"), "--listen-client-urls", clients, "--advertise-client-urls", clients,
        "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}", "--enable-pprof",
    ]


def _ask_etcd(connection: http.client.HTTPConnection, number: int) -> None:
    if number % 3:
        request(connection, "POST", "/v3/kv/range", {"key": _text(f"key{number % 50}")})
    else:
        request(connection, "POST", "/v3/kv/put", {"key": _text(f"key{number % 50}"), "value": _text("x" * 200)})


def _influx_environment(place: Place) -> dict[str, str]:
    return {
        "INFLUXDB_REPORTING_DISABLED": "true", "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{place.other_port}",
        "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{place.port}", "INFLUXDB_META_DIR": str(place.folder / "meta"),
        "INFLUXDB_DATA_DIR": str(place.folder / "data"), "INFLUXDB_DATA_WAL_DIR": str(place.folder / "wal"),
    }


def _ask_influx(connection: http.client.HTTPConnection, number: int) -> None:
    if number % 4:
        request(connection, "POST", "/write?db=load", "\n".join(f"cpu,host=h{i} value={number}" for i in range(20)))
    else:
        request(connection, "GET", "/query?db=load&q=SELECT+mean(value)+FROM+cpu+GROUP+BY+host")


def _caddy(place: Place, program: str) -> list[str]:
    config = f"""
        {{
            admin off
            auto_https off
        }}
        http://127.0.0.1:{place.port} {{
            bind 127.0.0.1
            handle_path /through/* {{
                reverse_proxy 127.0.0.1:{place.other_port}
            }}
            root * {place.folder}/files
            encode gzip
            file_server
        }}
        http://127.0.0.1:{place.other_port} {{
            bind 127.0.0.1
            root * {place.folder}/files
            file_server
        }}
    """
    place.write("files/small.txt", "small\n")
    place.write("files/large.txt", "large text that can be compressed\n" * 10_000)
    return [program, "run", "--adapter", "caddyfile", "--config", str(place.write("Caddyfile", config))]


def _ask_caddy(connection: http.client.HTTPConnection, number: int) -> None:
    path = ("/small.txt", "/through/small.txt", "/large.txt", "/through/large.txt", "/missing")[number % 5]
    request(connection, "GET", path, **({"Accept-Encoding": "gzip"} if number % 2 else {}))


def _prometheus(place: Place, program: str) -> list[str]:
    config = place.write("prometheus.yml", f"""
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: self, static_configs: [{{targets: ["127.0.0.1:{place.port}"]}}]}}]
""")
    place.write("rules.yml", 'groups: [{name: one, rules: [{record: "a:b", expr: "sum(rate(go_goroutines[1m]))"}]}]\n')
    return [
        program, f"--config.file={config}", f"--storage.tsdb.path={place.folder}/data", f"--web.listen-address=127.0.0.1:{place.port}",
    ]


def _ask_prometheus(connection: http.client.HTTPConnection, number: int) -> None:
    now = time.time()
    queries = (
        f"/api/v1/query_range?query=rate(prometheus_http_requests_total[1m])&start={now - 300:.0f}&end={now:.0f}&step=5", "/metrics",
        "/api/v1/query?query=sum(go_memstats_alloc_bytes)by(job)", "/api/v1/labels",
    )
    request(connection, "GET", queries[number % len(queries)])


def _ask_metrics(connection: http.client.HTTPConnection, number: int) -> None:
    request(connection, "GET", "/metrics", **({"Accept-Encoding": "gzip"} if number % 2 else {}))


def _pushgateway(place: Place, program: str) -> list[str]:
    return [
        program, f"--web.listen-address=127.0.0.1:{place.port}", f"--persistence.file={place.folder}/metrics", "--persistence.interval=200ms",
    ]


def _ask_pushgateway(connection: http.client.HTTPConnection, number: int) -> None:
    if number % 4:
        request(connection, "PUT", f"/metrics/job/job{number % 30}", "".join(f"metric{i} {number}\n" for i in range(30)))
    else:
        request(connection, "GET", "/metrics")


def _victoria(place: Place, program: str) -> list[str]:
    return [
        program, f"-storageDataPath={place.folder}/data", f"-httpListenAddr=127.0.0.1:{place.port}", "-storage.minFreeDiskSpaceBytes=1MB",
        "-memory.allowedBytes=256MB",
    ]


def _ask_victoria(connection: http.client.HTTPConnection, number: int) -> None:
    if number % 4:
        request(connection, "POST", "/api/v1/import/prometheus", "".join(f'load{{host="h{i}"}} {number}\n' for i in range(50)))
    else:
        request(connection, "GET", "/api/v1/query?query=sum(rate(load[1m]))")


def _nats(place: Place, program: str) -> list[str]:
    return [program, "-a", "127.0.0.1", "-p", str(place.port), "-m", str(place.other_port), "-js", "-sd", str(place.folder / "data")]


def _converse_with_nats(connection: socket.socket, end: threading.Event) -> Iterator[None]:
    """A stream on disk, publications into it and plain ones that come back."""
    me = f"{threading.get_ident() % 10_000}"
    stream = json.dumps({"name": f"S{me}", "subjects": [f"kept.{me}"], "storage": "file"})
    connection.settimeout(5)
    connection.sendall(
        f'CONNECT {{"verbose":false}}\r\nSUB plain.{me} 1\r\nSUB in.{me} 2\r\n'
        f"PUB $JS.API.STREAM.CREATE.S{me} in.{me} {len(stream)}\r\n{stream}\r\n".encode()
    )
    while not end.is_set():
        connection.sendall(f"PUB plain.{me} 5\r\nhello\r\nPUB kept.{me} in.{me} 200\r\n{'x' * 200}\r\nPING\r\n".encode())
        said = b""
        while b"PONG" not in said:
            said = said[-8:] + connection.recv(65536)
        yield
        end.wait(random.expovariate(1 / _PAUSE_S))


def _registry(place: Place, program: str) -> list[str]:
    config = place.write("config.yml", f"""
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {place.folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{place.port}", debug: {{addr: "127.0.0.1:{place.other_port}"}}}}
""")
    return [program, "serve", str(config)]


def _ask_registry(connection: http.client.HTTPConnection, number: int) -> None:
    blob = f"layer {number}".encode() * 2000
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    _, _, headers = request(connection, "POST", "/v2/load/blobs/uploads/", b"")
    where = re.sub(r"^https?://[^/]+", "", headers["Location"])
    request(connection, "PUT", f"{where}&digest={digest}", blob)
    request(connection, "GET", f"/v2/load/blobs/{digest}")


def _rclone(place: Place, program: str) -> list[str]:
    place.write("files/one.txt", "one\n")
    return [
        program, "serve", "webdav", str(place.folder / "files"), "--addr", f"127.0.0.1:{place.port}", "--vfs-cache-mode", "writes",
        "--vfs-write-back", "50ms", "--cache-dir", str(place.folder / "cache"), "--config", str(place.folder / "rclone.conf"),
        "--rc", "--rc-addr", f"127.0.0.1:{place.other_port}", "--rc-no-auth",
    ]


def _ask_rclone(connection: http.client.HTTPConnection, number: int) -> None:
    if number % 3 == 0:
        request(connection, "PUT", f"/file{number % 20}.txt", b"y" * 20_000)
    elif number % 3 == 1:
        request(connection, "PROPFIND", "/", Depth="1")
    else:
        request(connection, "GET", "/one.txt")


_KEY = "0123456789abcdef0123456789abcdef"


def _syncthing(place: Place, program: str) -> list[str]:
    home, environment = place.folder / "home", {"HOME": str(place.folder), "PATH": os.environ["PATH"]}
    made = subprocess.run([program, "generate", f"--home={home}", "--no-default-folder"], env=environment, capture_output=True, timeout=60)
    config = home / "config.xml"
    if made.returncode:
        raise NotStarted(f"syncthing generate: {made.stderr.decode(errors='replace')[-200:]}")
    text = config.read_text()
    for option in ("globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled", "startBrowser"):
        text = re.sub(f"<{option}>[^<]*<", f"<{option}>false<", text)
    for option, value in (("listenAddress", f"tcp://127.0.0.1:{place.other_port}"), ("urAccepted", "-1"), ("autoUpgradeIntervalH", "0")):
        text = re.sub(f"<{option}>[^<]*<", f"<{option}>{value}<", text)
    for number in range(200):
        place.write(f"files/{number}.txt", f"{number}\n" * 500)
    config.write_text(text)
    return [
        program, "serve", "--no-browser", "--no-restart", "--no-upgrade", f"--home={home}", f"--gui-address=127.0.0.1:{place.port}",
        f"--gui-apikey={_KEY}",
    ]


def _folder_of_syncthing(connection: http.client.HTTPConnection, number: int) -> None:
    status = request(connection, "GET", "/rest/system/status", **{"X-API-Key": _KEY})[1]
    files = f"{json.loads(status)['tilde']}/files"
    request(connection, "POST", "/rest/config/folders", {"id": "load", "path": files, "fsWatcherEnabled": False}, **{"X-API-Key": _KEY})


def _ask_syncthing(connection: http.client.HTTPConnection, number: int) -> None:
    paths = ("/rest/db/status?folder=load", "/rest/system/status", "/rest/db/browse?folder=load", "/rest/db/file?folder=load&file=7.txt")
    if number % 20 == 0:
        request(connection, "POST", "/rest/db/scan?folder=load", b"", **{"X-API-Key": _KEY})
    else:
        request(connection, "GET", paths[number % len(paths)], **{"X-API-Key": _KEY})


def _create_database(connection: http.client.HTTPConnection, number: int) -> None:
    request(connection, "POST", "/query?q=CREATE+DATABASE+load", b"")


_OWN = "/debug/pprof/goroutine?debug=2"
SERVERS = [
    Server("bookworm", "etcd-server", "usr/bin/etcd", _etcd, _ask_etcd, "/health", goroutines=_OWN),
    Server("bookworm", "influxdb", "usr/bin/influxd", lambda place, program: [program], _ask_influx, "/ping", _influx_environment, _create_database, goroutines=_OWN),
    Server("bookworm", "caddy", "usr/bin/caddy", _caddy, _ask_caddy),
    Server("trixie", "etcd-server", "usr/bin/etcd", _etcd, _ask_etcd, "/health", goroutines=_OWN),
    Server("trixie", "prometheus", "usr/bin/prometheus", _prometheus, _ask_prometheus, "/-/ready", goroutines=_OWN),
    Server("trixie", "nats-server", "usr/sbin/nats-server", _nats, None, converse=_converse_with_nats),
    Server("trixie", "docker-registry", "usr/bin/docker-registry", _registry, _ask_registry, "/v2/", goroutines=_OWN),
    Server(
        "trixie", "syncthing", "usr/bin/syncthing", _syncthing, _ask_syncthing, "/rest/noauth/health",
        lambda place: {"STMONITORED": "yes"},  # no process of its own that watches it
        _folder_of_syncthing,
    ),
    Server(
        "trixie", "prometheus-node-exporter", "usr/bin/prometheus-node-exporter",
        lambda place, program: [program, f"--web.listen-address=127.0.0.1:{place.port}"], _ask_metrics, goroutines=_OWN,
    ),
    Server("sid", "caddy", "usr/bin/caddy", _caddy, _ask_caddy),
    Server("sid", "rclone", "usr/bin/rclone", _rclone, _ask_rclone),
    Server("sid", "etcd-server", "usr/bin/etcd", _etcd, _ask_etcd, "/health", goroutines=_OWN),
    Server("sid", "prometheus", "usr/bin/prometheus", _prometheus, _ask_prometheus, "/-/ready", goroutines=_OWN),
    Server("sid", "nats-server", "usr/sbin/nats-server", _nats, None, converse=_converse_with_nats),
    Server("sid", "prometheus-pushgateway", "usr/bin/prometheus-pushgateway", _pushgateway, _ask_pushgateway, "/-/ready", goroutines=_OWN),
    Server("sid", "victoria-metrics", "usr/bin/victoria-metrics", _victoria, _ask_victoria, "/health", goroutines=_OWN),
]
