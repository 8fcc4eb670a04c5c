"""Which fields of the kernel's structs the programs read, and their offsets in the running kernel."""

from __future__ import annotations

import platform
import re

from gotrace.common.errors import Refused
from gotrace.kernel.btf import Btf

# Constants of bpf/at_load.h: struct, then the path of members.
_FIELDS: dict[str, tuple[str, ...]] = {
    "K_TASK_TGID": ("task_struct", "tgid"),
    "K_TASK_PID": ("task_struct", "pid"),
    "K_TASK_STATE": ("task_struct", "__state"),
    "K_TASK_FLAGS": ("task_struct", "flags"),
    "K_TASK_WORK": ("task_struct", "thread_info", "flags"),
    "K_TASK_JOBCTL": ("task_struct", "jobctl"),
    "K_TASK_RAN": ("task_struct", "se", "sum_exec_runtime"),
    "K_TASK_STACK": ("task_struct", "stack"),
    "K_TASK_ALTSTACK": ("task_struct", "sas_ss_sp"),
    "K_TASK_ALTSTACK_SIZE": ("task_struct", "sas_ss_size"),
    "K_TASK_FSBASE": ("task_struct", "thread", "fsbase"),
    "K_TASK_WAKE_CPU": ("task_struct", "wake_cpu"),
    "K_TASK_GROUP": ("task_struct", "sched_task_group"),
    "K_GROUP_CFS_RQ": ("task_group", "cfs_rq"),
    "K_CFS_RQ_THROTTLE_COUNT": ("cfs_rq", "throttle_count"),
    "K_TASK_FILES": ("task_struct", "files"),
    "K_FILES_FDT": ("files_struct", "fdt"),
    "K_FDTABLE_FD": ("fdtable", "fd"),
    "K_FDTABLE_MAX_FDS": ("fdtable", "max_fds"),
    "K_FILE_INODE": ("file", "f_inode"),
    "K_FILE_PRIVATE": ("file", "private_data"),
    "K_INODE_MODE": ("inode", "i_mode"),
    "K_INODE_INO": ("inode", "i_ino"),
    "K_INODE_SB": ("inode", "i_sb"),
    "K_SB_DEV": ("super_block", "s_dev"),
    "K_SOCKET_SK": ("socket", "sk"),
    "K_UNIX_PEER": ("unix_sock", "peer"),
    "K_UNIX_ADDR": ("unix_sock", "addr"),
    "K_UNIX_ADDRESS_LEN": ("unix_address", "len"),
    "K_UNIX_ADDRESS_NAME": ("unix_address", "name"),
    "K_EPPOLL_WAIT": ("eppoll_entry", "wait"),
    "K_EPPOLL_BASE": ("eppoll_entry", "base"),
    "K_EPITEM_FILE": ("epitem", "ffd", "file"),
    "K_SK_FAMILY": ("sock", "__sk_common", "skc_family"),
    "K_SK_TYPE": ("sock", "sk_type"),
    "K_SK_STATE": ("sock", "__sk_common", "skc_state"),
    "K_SK_NUM": ("sock", "__sk_common", "skc_num"),
    "K_SK_DPORT": ("sock", "__sk_common", "skc_dport"),
    "K_SK_RCV_SADDR": ("sock", "__sk_common", "skc_rcv_saddr"),
    "K_SK_DADDR": ("sock", "__sk_common", "skc_daddr"),
    "K_SK_V6_RCV_SADDR": ("sock", "__sk_common", "skc_v6_rcv_saddr"),
    "K_SK_V6_DADDR": ("sock", "__sk_common", "skc_v6_daddr"),
    "K_SK_BIND": ("inet_connection_sock", "icsk_bind_hash"),
    "K_BIND_REUSE": ("inet_bind_bucket", "fastreuse"),
}
# A kernel may lack these: task.state had this name up to Linux 5.13; IPv6, CPU quotas and unix sockets are options.
_OLDER = {"K_TASK_STATE": ("task_struct", "state")}
_QUOTA = ("K_TASK_WAKE_CPU", "K_TASK_GROUP", "K_GROUP_CFS_RQ", "K_CFS_RQ_THROTTLE_COUNT")
_POLL = ("K_EPPOLL_WAIT", "K_EPPOLL_BASE", "K_EPITEM_FILE")
_UNIX = ("K_UNIX_PEER", "K_UNIX_ADDR", "K_UNIX_ADDRESS_LEN", "K_UNIX_ADDRESS_NAME")
_BIND = ("K_SK_BIND", "K_BIND_REUSE")
_OPTIONAL = frozenset((
    "K_SK_V6_RCV_SADDR", "K_SK_V6_DADDR", *_QUOTA, *_POLL, *_UNIX, *_BIND,
))

# How many bytes of a struct cover what is read from it at once, and for how many the programs have room.
_READS = {
    "K_FDTABLE_READ": ("K_FDTABLE_MAX_FDS", "K_FDTABLE_FD"),
    "K_FILE_READ": ("K_FILE_INODE", "K_FILE_PRIVATE"),
    "K_INODE_READ": ("K_INODE_MODE", "K_INODE_INO", "K_INODE_SB"),
    "K_SK_READ": (
        "K_SK_FAMILY", "K_SK_STATE", "K_SK_NUM", "K_SK_DPORT", "K_SK_RCV_SADDR", "K_SK_DADDR", "K_SK_V6_RCV_SADDR", "K_SK_V6_DADDR",
    ),
}
_LARGEST_FIELD, _MAX_READ = 16, 1024


def kernel_offsets() -> dict[str, int]:
    """Byte offsets by constant.

    Raises:
        Refused: the kernel has no BTF, or a field is not where all kernels since 5.12 have had it.
    """
    found: dict[str, int] = {}
    missing: set[str] = set()
    with Btf() as btf:
        for name, path in _FIELDS.items():
            offset = btf.offset(*path)
            if offset is None and name in _OLDER:
                offset = btf.offset(*_OLDER[name])
            if offset is None:
                if name not in _OPTIONAL:
                    raise Refused(f"this kernel's {path[0]} has no {'.'.join(path[1:])}", "gotrace attach --no-kernel")
                missing.add(name)
                offset = 0
            found[name] = offset
    # Either all fields of a group are used, or none.
    for group, switch in ((_QUOTA, "K_TASK_GROUP"), (_POLL, "K_EPITEM_FILE"), (_UNIX, "K_UNIX_ADDR"), (_BIND, "K_SK_BIND")):
        if missing & set(group):
            found[switch] = 0
    for name, fields in _READS.items():
        found[name] = max(found[field] for field in fields) + _LARGEST_FIELD
        if found[name] > _MAX_READ:
            raise Refused(f"this kernel's {_FIELDS[fields[0]][0]} is larger than gotrace reads", "gotrace attach --no-kernel")
    found["K_SIGNAL_PENDING"] = _signal_pending(platform.release())
    return found


def _signal_pending(release: str) -> int:
    """_TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL of that kernel, which BTF does not have: x86 has the bits of asm-generic/thread_info_tif.h from
    Linux 6.18 on, and had its own before (arch/x86/include/asm/thread_info.h)."""
    version = re.match(r"(\d+)\.(\d+)", release)
    generic = version is not None and (int(version[1]), int(version[2])) >= (6, 18)
    return 1 << 1 | 1 << 2 if generic else 1 << 2 | 1 << 17
