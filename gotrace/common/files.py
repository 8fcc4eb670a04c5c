"""Output files: never over an existing one unasked, never through a symlink, owned by the user who called sudo.

While a file is created or written, the thread's file-system identity is that of the invoking user (setfsuid(2)), so the kernel itself
refuses what that user could not do, wherever a link in the path leads.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gotrace.common.errors import GotraceError, UsageError


def invoking_user() -> tuple[int, int] | None:
    """(uid, gid) of the user behind sudo, or None if there is none."""
    try:
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    return (uid, gid) if os.geteuid() == 0 and uid > 0 and gid >= 0 else None


@contextlib.contextmanager
def as_invoking_user(folder: Path) -> Iterator[None]:
    """File operations of this thread run as the user behind sudo, unless only root may write to `folder`."""
    user = invoking_user()
    if user is None or _only_root_writes(folder):
        yield
        return
    with _as(user):
        yield


@contextlib.contextmanager
def _as(user: tuple[int, int]) -> Iterator[None]:
    libc = ct.CDLL(None)
    uid, gid = user
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


def _may_enter(user: tuple[int, int], folder: Path) -> bool:
    with _as(user):
        try:
            os.stat(folder / "x")
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


def _only_root_writes(folder: Path) -> bool:
    # No other user can plant a link in such a folder: writing there as root, then giving the file away, is safe.
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def check_output(path: Path, force: bool) -> None:
    """Refuses an unusable output before anything is attached.

    Raises:
        UsageError: it exists and `force` is off, or it is not a regular file.
        GotraceError: the folder is missing or can't be written to.
    """
    folder = path.parent
    if not folder.is_dir():
        raise GotraceError(f"{path} can't be written: there is no folder {folder}", f"mkdir -p {folder}")
    with as_invoking_user(folder):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            status = None
        except OSError as error:
            raise _failed(path, error) from None
        if status is not None:
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                raise UsageError(f"{path} exists and is not a regular file")
            if not force:
                raise UsageError(f"{path} exists", "overwrite it with --force, or choose another name with -o")
        probe = folder / f".{path.name}.{os.getpid()}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            os.unlink(probe)
        except OSError as error:
            raise _failed(path, error) from None


def make_folder(path: Path, mode: int) -> None:
    """Makes a folder, and those above it that are missing; one that is there is left as it is. It is given to the user behind sudo, unless
    that user can't reach it.

    Raises:
        OSError: it can't be made, or something else has the name.
    """
    with as_invoking_user(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        user = invoking_user()
        if user is not None and path.lstat().st_uid != user[0] and _may_enter(user, path.parent):
            os.chown(path, *user, follow_symlinks=False)


def create(path: Path, force: bool, mode: int = 0o644) -> None:
    """Creates an empty file, in place of an existing one if `force`; raises as `check_output` does. `mode` is without what umask takes."""
    with as_invoking_user(path.parent):
        try:
            if force:
                for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(old)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except FileExistsError:
            raise UsageError(f"{path} exists", "overwrite it with --force, or choose another name with -o") from None
        except OSError as error:
            raise _failed(path, error) from None
        _give_away(fd)
        os.close(fd)


def write(path: Path, content: bytes, force: bool, mode: int = 0o644) -> None:
    """Writes a whole file at once: readers see the old one or the new one, never half of one.

    Raises:
        UsageError: it exists and `force` is off.
        GotraceError: it can't be written (unwritable folder, full disk); no partial file remains.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with as_invoking_user(path.parent):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            try:
                _give_away(fd)
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                if force:
                    os.replace(temporary, path)
                else:
                    os.link(temporary, path)
                    os.unlink(temporary)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except FileExistsError:
            raise UsageError(f"{path} exists", "overwrite it with --force, or choose another name with -o") from None
        except OSError as error:
            raise _failed(path, error) from None


def append(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Adds to the end of a file, which is created if there is none; raises as `write` does."""
    with as_invoking_user(path.parent):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
            with os.fdopen(fd, "ab", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise UsageError(f"{path} is not a regular file")
                _give_away(file.fileno())
                file.write(content)
        except OSError as error:
            raise _failed(path, error) from None


def _give_away(fd: int) -> None:
    user = invoking_user()
    if user is not None and os.fstat(fd).st_uid != user[0]:
        os.fchown(fd, *user)


def _failed(path: Path, error: OSError) -> GotraceError:
    hints = {
        errno.ENOSPC: "free some space, or write elsewhere with -o",
        errno.EDQUOT: "free some space, or write elsewhere with -o",
        errno.EACCES: "choose a folder that you can write to with -o",
        errno.EROFS: "choose a folder that you can write to with -o",
    }
    return GotraceError(f"{path} can't be written: {error.strerror}", hints.get(error.errno or 0))
