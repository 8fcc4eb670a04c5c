"""Go modules that a process has loaded in addition to its executable: plugins, and shared objects linked by -linkshared.

The runtime chains their module data by moduledata.next, its last field (src/runtime/symtab.go), whose offset differs by version. It is the
pointer, in the struct or right after it, that leads to other module data.
"""

from __future__ import annotations

import struct

from gotrace.gobin.moduledata import MAGIC_118, MAGIC_120
from gotrace.proc.memory import Memory

_READ = 1024
"""Bytes of a moduledata, and of what follows; Go 1.27 needs about 650."""
_TEXT = 176
"""moduledata.text, followed by etext, from Go 1.18 to 1.27."""
_MOST = 64
_HEADER = struct.Struct("<IBBBB8Q")


def other_modules(memory: Memory, first: int) -> list[int]:
    """The start of each module's code, except that of the module data at `first`."""
    seen, texts, left = {first}, [], [first]
    while left and len(seen) <= _MOST:
        raw = memory.read(left.pop(), _READ) or b""
        # At most four kilobytes of pointers are checked for each module, with one system call per step.
        words = dict.fromkeys(struct.unpack(f"<{len(raw) // 8}Q", raw))
        candidates = [word for word in words if word % 8 == 0 and 4096 <= word < 1 << 47 and word not in seen]
        heads = memory.read_many([(word, _TEXT + 16) for word in candidates])
        for word, head in zip(candidates, heads, strict=True):
            if head is not None and _is_moduledata(memory, head):
                seen.add(word)
                left.append(word)
                texts.append(struct.unpack_from("<Q", head, _TEXT)[0])
    return texts


def _is_moduledata(memory: Memory, head: bytes) -> bool:
    """{pcHeader *pcHeader; funcnametab []byte; ...}: the header's own offset tells where the names begin."""
    header, names = struct.unpack_from("<QQ", head)
    text, etext = struct.unpack_from("<QQ", head, _TEXT)
    if not (header < names < header + (1 << 32) and 0 < text < etext < 1 << 47):
        return False
    raw = memory.read(header, _HEADER.size) if header < 1 << 47 else None
    if raw is None:
        return False
    magic, zero, zero2, quantum, pointer, _functions, _files, _text, offset, *_rest = _HEADER.unpack(raw)
    return magic in (MAGIC_118, MAGIC_120) and (zero, zero2, quantum, pointer) == (0, 0, 1, 8) and header + offset == names
