"""What gotrace serve pushes to: servers that keep what they are sent, and decoders that are not gotrace's own."""

from __future__ import annotations

import base64
import gzip
import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wire import each, packed

PYROSCOPE, OTLP = "/push.v1.PusherService/Push", "/v1development/profiles"


@dataclass
class Sent:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What is answered."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Receiver:
    """A server at 127.0.0.1. `requests` are those that it answered with 200, `others` the rest. `reply` makes an answer of a request, None
    for 200. A context manager; with the same `port` another one can be started later."""

    def __init__(self, reply: Callable[[Sent], Reply | None] = lambda _: None, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Sent] = []
        self.others: list[Sent] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                sent = Sent(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                answer = reply(sent) or Reply()
                (receiver.requests if answer.status == 200 else receiver.others).append(sent)
                try:
                    self.send_response(answer.status)
                    for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)
                except OSError:
                    pass

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Receiver:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def until(self, count: int, seconds: float = 30) -> list[Sent]:
        """Waits until there are so many requests."""
        deadline = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < deadline, (len(self.requests), len(self.others))
            time.sleep(0.02)
        return self.requests[:count]


@dataclass
class Got:
    """A profile as a receiver sees it. `samples`: labels, functions (leaf first), count and ns; `labels`: of the series, or attributes of
    the resource."""

    labels: dict[str, Any]
    samples: list[tuple[dict[str, str], list[str], int, int]]
    time_ns: int
    duration_ns: int
    id: str = ""

    def total(self) -> tuple[int, int]:
        """Count and ns of all samples."""
        return sum(sample[2] for sample in self.samples), sum(sample[3] for sample in self.samples)

    def by(self, *labels: str) -> dict[tuple[str, ...], tuple[int, int]]:
        """The same, by values of these labels."""
        found: dict[tuple[str, ...], tuple[int, int]] = {}
        for named, _, count, ns in self.samples:
            key = tuple(named.get(label, "") for label in labels)
            before = found.get(key, (0, 0))
            found[key] = before[0] + count, before[1] + ns
        return found


def pyroscope_of(sent: Sent) -> tuple[Got, bytes]:
    """What Pyroscope's push.v1 gets, by its JSON form (api/push/v1/push.proto), and the pprof file in it."""
    assert sent.path.endswith(PYROSCOPE) and sent.headers["content-type"] == "application/json"
    (series,) = json.loads(sent.body)["series"]
    (sample,) = series["samples"]
    pairs = [(one["name"], one["value"]) for one in series["labels"]]
    # What Pyroscope checks (pkg/validation/validate.go): with state and reason there are at most 30 names.
    assert len(dict(pairs)) == len(pairs) <= 26 and dict(pairs)["service_name"]
    assert all(re.fullmatch(r"__name__|(?!__)[A-Za-z_][A-Za-z0-9_]*", name) and len(value) <= 2048 for name, value in pairs)
    raw = base64.b64decode(sample["rawProfile"], validate=True)
    got = pprof_of(raw)
    got.labels, got.id = dict(pairs), sample["ID"]
    return got, raw


def pprof_of(raw: bytes) -> Got:
    """A pprof file, read field by field (google/pprof, proto/profile.proto)."""
    data = gzip.decompress(raw)
    strings = [text.decode() for text in each(data, 6)]  # type: ignore[union-attr]
    assert strings[0] == "" and [strings[first(kind, 1)] for kind in each(data, 1)] == ["contentions", "delay"]
    names = {first(one, 1): strings[first(one, 2)] for one in each(data, 5)}
    locations = {first(one, 1): [names[first(line, 1)] for line in each(one, 4)] for one in each(data, 4)}  # type: ignore[arg-type]
    samples = []
    for one in each(data, 2):
        assert isinstance(one, bytes)
        frames = [name for number in packed(each(one, 1)[0]) for name in locations[number]]  # type: ignore[arg-type]
        count, ns = packed(each(one, 2)[0])  # type: ignore[arg-type]
        pairs = [(strings[first(label, 1)], strings[first(label, 2)]) for label in each(one, 3)]
        assert len(dict(pairs)) == len(pairs)
        samples.append((dict(pairs), frames, count, ns))
    return Got({}, samples, first(data, 9), first(data, 10))


def first(data: Any, number: int) -> int:
    """The first value of an integer field, 0 if it is not there."""
    values = each(data, number)
    return int(values[0]) if values else 0


def otlp_of(sent: Sent) -> Got:
    """What an OTLP endpoint gets, by the official definitions."""
    assert sent.path.endswith(OTLP) and sent.headers["content-type"] == "application/x-protobuf"
    return otlp_message(gzip.decompress(sent.body) if sent.headers.get("content-encoding") == "gzip" else sent.body)


def otlp_message(data: bytes) -> Got:
    """A serialized ExportProfilesServiceRequest, of which all references are followed."""
    from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest

    request: Any = ExportProfilesServiceRequest.FromString(data)
    to = request.dictionary
    for table in (to.mapping_table, to.location_table, to.function_table, to.link_table, to.attribute_table, to.stack_table):
        assert not table[0].SerializeToString()  # the zero value
    assert to.string_table[0] == "" and len(set(to.string_table)) == len(to.string_table)
    (group,) = request.resource_profiles
    (scope,) = group.scope_profiles
    assert scope.scope.name == "gotrace"
    times, counts = scope.profiles
    named = [tuple(to.string_table[i] for i in (kind.type_strindex, kind.unit_strindex)) for kind in (
        times.sample_type, times.period_type, counts.sample_type, counts.period_type,
    )]
    assert named == [("off_cpu", "nanoseconds"), ("", ""), ("events", "count"), ("events", "count")]
    assert (times.period, counts.period) == (0, 1) and len({times.profile_id, counts.profile_id}) == 2 and len(times.profile_id) == 16
    samples: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for number, one in enumerate((counts, times)):
        for sample in one.samples:
            (value,) = sample.values
            values = samples.setdefault((sample.stack_index, tuple(sample.attribute_indices)), [0, 0])
            assert not values[number]  # a sample's identity is there once
            values[number] = value
    found = [
        (_attributes(to, attributes), _names(to, stack), count, ns) for (stack, attributes), (count, ns) in samples.items()
    ]
    resource = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in group.resource.attributes}
    return Got(resource, found, times.time_unix_nano, times.duration_nano, times.profile_id.hex())


def _attributes(to: Any, numbers: tuple[int, ...]) -> dict[str, str]:
    found = {}
    for number in numbers:
        entry = to.attribute_table[number]
        found[to.string_table[entry.key_strindex].removeprefix("gotrace.")] = entry.value.string_value
    return found


def _names(to: Any, stack: int) -> list[str]:
    found = []
    for number in to.stack_table[stack].location_indices:
        assert number
        location = to.location_table[number]
        assert 0 <= location.mapping_index < len(to.mapping_table) and location.lines
        for line in location.lines:
            assert line.function_index
            found.append(to.string_table[to.function_table[line.function_index].name_strindex])
    return found


def summed(profiles: list[Got], *labels: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Count and ns of several, by values of these labels."""
    counts: Counter[tuple[str, ...]] = Counter()
    times: Counter[tuple[str, ...]] = Counter()
    for one in profiles:
        for key, (count, ns) in one.by(*labels).items():
            counts[key] += count
            times[key] += ns
    return {key: (counts[key], times[key]) for key in times | counts}
