"""Runs gotrace serve: the HTTP server, the signals, and the end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from gotrace.common.errors import GotraceError
from gotrace.serve.listening import Address, Guard, bind, read_token, shown
from gotrace.serve.notify import Notify
from gotrace.serve.options import ServeOptions
from gotrace.serve.service import Service
from gotrace.serve.web import Server, application
from gotrace.serve.work import Work

_M_ARENA_MAX = -8
_TRIM_S = 10.0
_NICENESS = 5
_END_S = 1.4
"""With what comes before and after, gotrace ends within two seconds."""


def serve(options: ServeOptions, address: Address, token_file: Path | None, tls: ssl.SSLContext | None) -> bool:
    """Serves until SIGTERM or SIGINT. Returns whether everything was closed in time; if not, the process should end at once.

    Raises:
        GotraceError: nothing can listen there, or the token can't be read.
    """
    token = read_token(token_file) if token_file is not None else None
    for name in ("tornado.access", "tornado.application", "tornado.general", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _save_memory()
    _stand_back()
    sock = bind(address)
    ours = os.stat(address.path) if address.path else None
    try:
        return asyncio.run(_serve(Service(options), sock, Guard(address, token), token_file, tls))
    finally:
        sock.close()
        if ours is not None:
            with suppress(OSError):
                if os.path.samestat(ours, os.lstat(address.path)):
                    os.unlink(address.path)


def _save_memory() -> None:
    """Has the C library keep two heaps for all threads, and not one for each, which would never shrink (mallopt(3))."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _stand_back() -> None:
    """Threads of the targets come before all of ours, which are alike: one that has the interpreter keeps the others waiting."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def give_back_memory() -> None:
    """Returns what is free to the system (malloc_trim(3)): reading a binary or rendering a page takes much for a moment."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _serve(service: Service, sock: socket.socket, guard: Guard, token_file: Path | None, tls: ssl.SSLContext | None) -> bool:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    notify = Notify()
    work = Work()
    server = Server(application(service, guard, work), tls)
    server.add_sockets([sock])

    def reload() -> None:
        notify.reloading()
        if token_file is not None:
            try:
                guard.token = read_token(token_file)
            except GotraceError as error:
                service.say(f"the token stays as it was: {error}")
        service.supervisor.reload()
        if service.push is not None:
            service.push.hurry()
        service.say("reloaded: processes are searched for again")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGUSR1, service.capture_all, "SIGUSR1")
    service.start()
    where = shown(sock, tls is not None)
    service.say(f"serving at {where}; Ctrl-C or SIGTERM ends it")
    notify.ready(f"serving at {where}")
    try:
        while not over.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), min(notify.every_s or _TRIM_S, _TRIM_S))
            give_back_memory()
            if not over.is_set() and not service.problem():
                traced = sum(one.alive for one in service.supervisor.targets())
                notify.alive(f"serving at {where}, {traced} targets")
    finally:
        notify.stopping()
        server.stop()
        gc.freeze()  # the end is not the time to search hundreds of megabytes for cycles
        gc.disable()
        done = await loop.run_in_executor(None, service.finish, _END_S)
    return done and not work.busy  # the interpreter would wait for its threads
