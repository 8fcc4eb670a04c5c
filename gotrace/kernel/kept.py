"""The compiler's last result, kept beside the code from which it was compiled.

Anyone who can write there can change gotrace itself, so nothing is trusted that was not trusted before. Still, a file is not read
if others than its owner can write it, or if its owner is not that of the sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

_MOST = 1 << 22
_FOLDER = "compiled"
_NAME = re.compile(r"[0-9a-f]{32}\.json")


class KeptResult:
    """The compiler's answer for the sources in `folder` and the rest of the `request`."""

    def __init__(self, folder: Path, request: str) -> None:
        self._folder = folder / _FOLDER
        self._owner = (folder / "maps.c").stat().st_uid
        digest = hashlib.sha256(request.encode())
        for path in [*sorted(folder.rglob("*.[ch]")), Path(__file__).with_name("compiler.py")]:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        # A different bcc or interpreter compiles again.
        spec = importlib.util.find_spec("bcc")
        about = os.stat(spec.origin) if spec is not None and spec.origin else None
        digest.update(repr((sys.version, about and (about.st_size, about.st_mtime_ns))).encode())
        self._path = self._folder / f"{digest.hexdigest()[:32]}.json"

    def read(self) -> dict[str, Any] | None:
        """The answer, None if there is none that can be used."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, self._owner) or status.st_mode & 0o022:
                return None
            try:
                answer = json.loads(file.read(_MOST))
            except ValueError:
                return None
        return answer if isinstance(answer, dict) and answer.keys() >= {"bcc", "maps", "programs"} else None

    def write(self, answer: bytes) -> None:
        """Keeps this answer alone; if the folder can't be written, nothing is kept."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o755, exist_ok=True)
            status = os.lstat(self._folder)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, self._owner) or status.st_mode & 0o022:
                return
            fd, name = tempfile.mkstemp(dir=self._folder)
            try:
                with open(fd, "wb") as file:
                    file.write(answer)
                os.chmod(name, 0o644)
                if os.geteuid() == 0:  # the checkout's owner must be able to clean up
                    os.chown(name, self._owner, -1)
                    os.chown(self._folder, self._owner, -1, follow_symlinks=False)
                for old in self._folder.iterdir():
                    if _NAME.fullmatch(old.name):
                        old.unlink()
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise
