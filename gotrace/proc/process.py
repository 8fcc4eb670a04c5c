"""The target process as /proc shows it: its identity, whether it can be traced, where its executable is loaded."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from gotrace.common.errors import GotraceError, Refused, TargetGone
from gotrace.proc.aside import SILENT_S, NoAnswer, asked, copy_file
from gotrace.proc.descriptors import LOCAL, Mount, mount_of_open
from gotrace.proc.memory import has_ended, living_thread

_AT_ENTRY = 9
_PT_LOAD, _PF_X = 1, 1
_PF_KTHREAD = 0x00200000
_LONGEST = 4096
MOST_COPIED = 1 << 30
"""The most bytes of an executable that are copied to memory, if it is not read in place."""


@dataclass
class Process:
    """A live process. `exe_fd` and `pidfd` are open until `close`; they stay valid when the file is replaced or the
    process ends, so a recycled pid is never mistaken for it."""

    pid: int
    comm: str
    exe: str
    exe_fd: int
    pidfd: int
    start_ticks: int
    namespace_pid: int
    threads: int
    auxv: bytes
    start_code: int
    start_stack: int
    path_fd: int = -1
    """Refers to the executable without having opened it (O_PATH), if `exe_fd` is a copy; -1 if that is the file itself."""

    @property
    def exe_path(self) -> str:
        """A path, for this process only, to the very file that was read, even if it was deleted or replaced, is in a container, or the
        process has called exec since."""
        return f"/proc/self/fd/{self.exe_fd if self.path_fd < 0 else self.path_fd}"

    def alive(self) -> bool:
        """Whether the process still runs (a zombie does not)."""
        import select

        return not select.select([self.pidfd], [], [], 0)[0]

    def main_thread_ended(self) -> bool:
        """Whether the main thread has ended while others run (pthread_exit in main)."""
        return living_thread(self.pid) not in (0, self.pid)

    def entry_address(self) -> int:
        """Run-time address of the ELF entry point: AT_ENTRY of the auxiliary vector, or, if only the owner of the process may read that,
        from where its code was loaded.

        Raises:
            GotraceError: neither can be read.
        """
        told = entry_of(self.auxv)
        if told is not None:
            return told
        lowest, entry = _code_segment(self.exe_fd)
        if self.start_code <= 1 or lowest is None:  # 0 or 1: /proc/PID/stat does not tell us (fs/proc/array.c)
            raise _gone_or(self.pid, f"process {self.pid} has no auxiliary vector that we may read")
        return self.start_code - lowest + entry

    def same_program(self) -> bool:
        """Whether the process still runs the program that it ran when it was opened (it may call exec at any time)."""
        return self.alive() and _identity(self.pid) == (self.auxv, self.start_code, self.start_stack)

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in (self.exe_fd, self.path_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)


def entry_of(auxv: bytes) -> int | None:
    """AT_ENTRY of an auxiliary vector: the run-time address of the program's ELF entry point; None if it is not there."""
    for position in range(0, len(auxv) - 15, 16):
        value: int
        key, value = struct.unpack_from("<QQ", auxv, position)
        if key == _AT_ENTRY:
            return value
    return None


def auxiliary_vector(pid: int) -> bytes:
    """/proc/PID/auxv, of a living thread if the main one has ended; b"" if it can't be read."""
    return read_short(f"/proc/{pid}/auxv") or read_short(f"/proc/{living_thread(pid) or pid}/auxv")


def open_process(pid: int) -> Process:
    """Opens `pid` (as our own PID namespace numbers it).

    Raises:
        TargetGone: there is no such process.
        Refused: it is a kernel thread, a zombie, a thread of another process, or not ours to trace.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise TargetGone(f"there is no process {pid}", "list candidates with: pgrep -a NAME") from None
    except OSError as error:
        # A thread id is refused by pidfd_open (EINVAL; ENOENT from Linux 6.9 on).
        leader = _status(pid).get("Tgid", "")
        if leader and leader != str(pid):
            raise Refused(f"{pid} is a thread of process {leader}", f"gotrace attach {leader}") from None
        raise TargetGone(f"process {pid} can't be opened: {error.strerror}") from None
    try:
        return _inspect(pid, pidfd)
    except BaseException:
        os.close(pidfd)
        raise


def _inspect(pid: int, pidfd: int) -> Process:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise _gone_or(pid, f"/proc/{pid}/stat can't be read: {error.strerror}") from None
    comm = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
    fields = stat[stat.rindex(b")") + 2 :].split()
    thread = living_thread(pid) if has_ended(fields) else pid
    if not thread and fields[0] not in (b"Z", b"X"):
        raise TargetGone(f"process {pid} has ended")
    if not thread:
        raise Refused(f"process {pid} ({comm}) is a zombie: it has ended and waits for its parent")
    if int(fields[6]) & _PF_KTHREAD:
        raise Refused(f"{pid} ({comm}) is a kernel thread, not a Go program")
    if thread != pid:  # the main thread has ended, and has no memory any more: the others have
        of_thread = read_short(f"/proc/{pid}/task/{thread}/stat")
        others = of_thread[of_thread.rindex(b")") + 2 :].split() if of_thread else fields
        fields = [*fields[:23], others[23], fields[24], others[25], *fields[26:]]
    status = _status(pid)
    # Stack addresses are random for every exec. Those in the vector, or start_stack if only the owner may read the vector, tell
    # one program of the process from the next.
    auxv = auxiliary_vector(pid)
    try:
        exe = os.readlink(f"/proc/{thread}/exe")
        exe_fd, path_fd = open_executable(thread, exe)
    except PermissionError:
        owner = status.get("Uid", "?").split()[0]
        raise Refused(
            f"process {pid} ({comm}) belongs to uid {owner} and can't be opened by uid {os.geteuid()}",
            f"sudo gotrace attach {pid}" if os.geteuid()
            else "it is protected even from root (another user namespace, or no CAP_SYS_PTRACE)",
        ) from None
    except OSError as error:
        raise _gone_or(pid, f"/proc/{pid}/exe can't be opened: {error.strerror}") from None
    return Process(
        pid=pid,
        comm=comm,
        exe=exe.removesuffix(" (deleted)"),
        exe_fd=exe_fd,
        pidfd=pidfd,
        start_ticks=int(fields[19]),
        namespace_pid=int(status.get("NSpid", str(pid)).split()[-1]),
        threads=int(fields[17]),
        auxv=auxv,
        start_code=int(fields[23]),
        start_stack=int(fields[25]),
        path_fd=path_fd,
    )


def open_executable(pid: int, name: str, silent_s: float = SILENT_S) -> tuple[int, int]:
    """(descriptor to read it by, O_PATH descriptor or -1). `name` is for messages; a file system may be silent for `silent_s`. A file on
    one that may not answer is neither opened nor read by this process: it could not be ended then, and a process with a file open on
    FUSE can't end before FUSE answers.

    Raises:
        Refused: the file system does not answer.
        OSError: the file can't be opened.
    """
    link = f"/proc/{pid}/exe"
    path_fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    mount = None
    try:
        mount = mount_of_open(pid, path_fd)
        if mount is None or mount.kind not in LOCAL:
            return _copy(pid, path_fd, name, mount, silent_s), path_fd
        if mount.kind == "overlay":  # below it may be anything
            asked(link, silent_s)
        exe_fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    except NoAnswer:
        os.close(path_fd)
        where = f"the mount {mount.path} ({mount.kind})" if mount is not None else "its file system"
        raise Refused(f"{name} can't be read: {where} has not answered for {silent_s:g} s", _hung_hint(mount)) from None
    except BaseException:
        os.close(path_fd)
        raise
    os.close(path_fd)
    return exe_fd, -1


def _copy(pid: int, path_fd: int, name: str, mount: Mount | None, silent_s: float) -> int:
    path, base = f"/proc/self/fd/{path_fd}", os.path.basename(name)
    try:
        return copy_file(path, base, MOST_COPIED, silent_s=silent_s)
    except PermissionError:
        if mount is None or not mount.kind.startswith("fuse"):
            raise
    # The kernel checks first whom the file system serves, and root is not exempt (fs/fuse/dir.c: fuse_allow_current_process).
    status = _status(pid)
    user = int(status.get("Uid", "0").split()[0]), int(status.get("Gid", "0").split()[0])
    try:
        if os.geteuid():
            raise PermissionError
        return copy_file(path, base, MOST_COPIED, user, silent_s)
    except PermissionError:
        raise Refused(
            f"{name} lies on a FUSE mount, {mount.path}, that only the user who mounted it may read (no allow_other)",
            "mount it with -o allow_other, or call gotrace as that user: gotrace dump",
        ) from None


def _hung_hint(mount: Mount | None) -> str:
    return f"see whether this comes back: timeout 5 stat {mount.path}" if mount is not None else "try again when it does"


def _identity(pid: int) -> tuple[bytes, int, int]:
    stat = read_short(f"/proc/{pid}/stat")
    fields = stat[stat.rindex(b")") + 2 :].split() if stat else []
    if fields and has_ended(fields):
        stat = read_short(f"/proc/{pid}/task/{living_thread(pid)}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split() if stat else []
    if not fields:
        return b"", 0, 0
    return auxiliary_vector(pid), int(fields[23]), int(fields[25])


def _code_segment(exe_fd: int) -> tuple[int | None, int]:
    """(lowest address of executable code in an ELF64 file, its entry point), found like start_code in fs/binfmt_elf.c."""
    head = os.pread(exe_fd, 64, 0).ljust(64, b"\0")
    entry, headers = struct.unpack_from("<QQ", head, 24)
    size, count = struct.unpack_from("<HH", head, 54)
    if size < 56 or headers > 1 << 20:
        return None, entry
    table = os.pread(exe_fd, size * count, headers)
    segments = (struct.unpack_from("<IIQQ", table, at) for at in range(0, len(table) - 55, size))
    return min((address for kind, flags, _, address in segments if kind == _PT_LOAD and flags & _PF_X), default=None), entry


def read_short(path: str, most: int = _LONGEST) -> bytes:
    """The first `most` bytes of a file of /proc, b"" if it can't be read. Called for every sample, so without a pathlib.Path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _gone_or(pid: int, message: str) -> GotraceError:
    return GotraceError(message) if os.path.exists(f"/proc/{pid}") else TargetGone(f"process {pid} has ended")
