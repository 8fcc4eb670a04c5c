/* Constants that are known only once the target and the user's options are known: layout, code addresses, filters.
 *
  * The program is compiled before any of them is known, in parallel with reading the target's binary. Each use becomes
  * one `lddw` with a marked immediate; gotrace/kernel/loader.py writes the value in, and the verifier, which then sees a
  * literal, drops the branches that it rules out. LOAD_* are the numbers of the constants and LOAD_MARK the upper half of
  * a marked immediate, both from gotrace/kernel/program.py. */
#pragma once

#define AT_LOAD(name) ({ u64 value_; asm("%0 = %1 ll" : "=r"(value_) : "i"((u64)LOAD_MARK << 32 | LOAD_##name)); value_; })

/* Offsets in runtime.g. */
#define G_STACK_LO AT_LOAD(G_STACK_LO)
#define G_STACK_HI AT_LOAD(G_STACK_HI)
#define G_SCHED_SP AT_LOAD(G_SCHED_SP)
#define G_SCHED_PC AT_LOAD(G_SCHED_PC)
#define G_SCHED_BP AT_LOAD(G_SCHED_BP)
#define G_GOID AT_LOAD(G_GOID)
#define G_ATOMICSTATUS AT_LOAD(G_ATOMICSTATUS)
#define G_WAITREASON AT_LOAD(G_WAITREASON)
#define G_M AT_LOAD(G_M)
#define G_SYSCALLSP AT_LOAD(G_SYSCALLSP) /* 0 if not known */
#define G_COROARG AT_LOAD(G_COROARG)
#define G_STARTPC AT_LOAD(G_STARTPC) /* 0 if not known */
#define G_LABELS AT_LOAD(G_LABELS) /* 0: labels are not read */
#define LABELS_LIST AT_LOAD(LABELS_LIST) /* they are a slice (Go 1.24), not a map */
#define SPAN_HAS_LABELS AT_LOAD(SPAN_HAS_LABELS) /* those of requests are told; holds where G_LABELS does */
/* How many labels are wanted (--label), the hash of each key, and the lengths of the keys: bit n & 63 for n bytes. */
#define WANTED AT_LOAD(WANTED)
#define WANTED_0 AT_LOAD(WANTED_0)
#define WANTED_1 AT_LOAD(WANTED_1)
#define WANTED_2 AT_LOAD(WANTED_2)
#define WANTED_3 AT_LOAD(WANTED_3)
#define WANTED_LENGTHS AT_LOAD(WANTED_LENGTHS)
#define G_SLEEPWHEN AT_LOAD(G_SLEEPWHEN) /* 0 if not known */
#define G_READ AT_LOAD(G_READ) /* bytes of a g that hold all but m and coroarg, at most MAX_G_READ */

/* Offsets in runtime.m and runtime.pollDesc. */
#define M_CURG AT_LOAD(M_CURG)
#define M_WAITLOCK AT_LOAD(M_WAITLOCK) /* 0 if not known */
#define M_VDSO_SP AT_LOAD(M_VDSO_SP) /* 0 if not known */
#define M_VDSO_PC AT_LOAD(M_VDSO_PC)
#define PD_SELF AT_LOAD(PD_SELF)
#define PD_FD AT_LOAD(PD_FD)
#define PD_RG AT_LOAD(PD_RG)
#define PD_WG AT_LOAD(PD_WG)
#define PD_READ AT_LOAD(PD_READ) /* bytes of a pollDesc that hold all of these, and PD_WG - PD_RG more */
#define TLS_G AT_LOAD(TLS_G) /* where the thread-local g lies, from the FS base */

/* Addresses of code in the target: [LO, HI). An absent function is empty. */
#define GOPARK_LO AT_LOAD(GOPARK_LO)
#define GOPARK_HI AT_LOAD(GOPARK_HI)
#define ASYNC_LO AT_LOAD(ASYNC_LO)
#define ASYNC_HI AT_LOAD(ASYNC_HI)
#define TEXT_LO AT_LOAD(TEXT_LO)
#define TEXT_HI AT_LOAD(TEXT_HI)
#define CGOCALLBACK_LO AT_LOAD(CGOCALLBACK_LO)
#define CGOCALLBACK_HI AT_LOAD(CGOCALLBACK_HI)
#define ASSIST_LO AT_LOAD(ASSIST_LO)
#define ASSIST_HI AT_LOAD(ASSIST_HI)
#define MCALL AT_LOAD(MCALL)
#define MORESTACK AT_LOAD(MORESTACK)
#define MORESTACK_NOCTXT AT_LOAD(MORESTACK_NOCTXT)
#define SWITCHED_AT AT_LOAD(SWITCHED_AT) /* runtime.systemstack_switch if systemstack and asmcgocall have no frames, else 0 */
#define SANITIZER AT_LOAD(SANITIZER) /* built with -race, -asan or -msan */
#define SANITIZER_FRAME AT_LOAD(SANITIZER_FRAME) /* of racecall, asancall, msancall: from r12 to their return address */
#define EXECUTE_AT AT_LOAD(EXECUTE_AT) /* the probed instruction of runtime.execute */
#define EXECUTE_LENGTH AT_LOAD(EXECUTE_LENGTH)

/* What goroutines wait for in Go (bpf/waited.c): offsets, where the table of semaphores is, and wait reasons, a bit each. */
#define OBJECTS AT_LOAD(OBJECTS)
#define FOLLOWED AT_LOAD(FOLLOWED) /* what happens is noted one by one, in the rings of the CPUs */
#define G_WAITING AT_LOAD(G_WAITING)
#define M_PARK_LOCK AT_LOAD(M_PARK_LOCK)
#define SUDOG_ELEM AT_LOAD(SUDOG_ELEM)
#define SUDOG_C AT_LOAD(SUDOG_C)
#define SUDOG_WAITLINK AT_LOAD(SUDOG_WAITLINK)
#define SUDOG_READ AT_LOAD(SUDOG_READ) /* bytes that hold all of these */
#define SEMTABLE AT_LOAD(SEMTABLE)
#define CHANNEL_REASONS AT_LOAD(CHANNEL_REASONS)
#define SELECT_REASONS AT_LOAD(SELECT_REASONS)
#define SEMAPHORE_REASONS AT_LOAD(SEMAPHORE_REASONS)
#define COND_REASONS AT_LOAD(COND_REASONS)

/* The number of the wait reason "IO wait". */
#define IO_WAIT AT_LOAD(IO_WAIT)

/* The number of the wait reason "sleep"; holds where G_SLEEPWHEN does. */
#define SLEEP AT_LOAD(SLEEP)

/* Frame sizes; CGOCALLBACK_FRAME is 0 where C can't call back. */
#define CGOCALLBACK_FRAME AT_LOAD(CGOCALLBACK_FRAME)
#define ASMCGOCALL_FRAME AT_LOAD(ASMCGOCALL_FRAME)
#define CGOCALL_FRAME AT_LOAD(CGOCALL_FRAME)
#define ASSIST_FRAME AT_LOAD(ASSIST_FRAME)

/* Offsets in the kernel's structs, from its BTF. KERNEL_STAGE is 0 if they are not known, or not wanted. */
#define KERNEL_STAGE AT_LOAD(KERNEL_STAGE)
#define K_TASK_TGID AT_LOAD(K_TASK_TGID)
#define K_TASK_PID AT_LOAD(K_TASK_PID)
#define K_TASK_STATE AT_LOAD(K_TASK_STATE)
#define K_TASK_FLAGS AT_LOAD(K_TASK_FLAGS)
#define K_TASK_JOBCTL AT_LOAD(K_TASK_JOBCTL)
#define K_TASK_WORK AT_LOAD(K_TASK_WORK) /* what it has to do before it returns to user space */
#define K_SIGNAL_PENDING AT_LOAD(K_SIGNAL_PENDING) /* the bits there that interrupt a sleep */
#define K_TASK_RAN AT_LOAD(K_TASK_RAN) /* nanoseconds; the scheduler updates it before each switch */
#define K_TASK_STACK AT_LOAD(K_TASK_STACK)
#define K_TASK_ALTSTACK AT_LOAD(K_TASK_ALTSTACK) /* where its signals are handled: sigaltstack(2) */
#define K_TASK_ALTSTACK_SIZE AT_LOAD(K_TASK_ALTSTACK_SIZE)
#define K_TASK_FSBASE AT_LOAD(K_TASK_FSBASE)
#define K_TASK_WAKE_CPU AT_LOAD(K_TASK_WAKE_CPU)
#define K_TASK_GROUP AT_LOAD(K_TASK_GROUP) /* 0: the kernel has no CPU quotas */
#define K_GROUP_CFS_RQ AT_LOAD(K_GROUP_CFS_RQ)
#define K_CFS_RQ_THROTTLE_COUNT AT_LOAD(K_CFS_RQ_THROTTLE_COUNT)
#define K_TASK_FILES AT_LOAD(K_TASK_FILES)
#define K_FILES_FDT AT_LOAD(K_FILES_FDT)
#define K_FDTABLE_FD AT_LOAD(K_FDTABLE_FD)
#define K_FDTABLE_MAX_FDS AT_LOAD(K_FDTABLE_MAX_FDS)
#define K_FDTABLE_READ AT_LOAD(K_FDTABLE_READ) /* ..._READ: bytes that hold all that is read of such a struct */
#define K_FILE_READ AT_LOAD(K_FILE_READ)
#define K_INODE_READ AT_LOAD(K_INODE_READ)
#define K_SK_READ AT_LOAD(K_SK_READ) /* all but the type */
#define K_FILE_INODE AT_LOAD(K_FILE_INODE)
#define K_FILE_PRIVATE AT_LOAD(K_FILE_PRIVATE)
#define K_INODE_MODE AT_LOAD(K_INODE_MODE)
#define K_INODE_INO AT_LOAD(K_INODE_INO)
#define K_INODE_SB AT_LOAD(K_INODE_SB)
#define K_SB_DEV AT_LOAD(K_SB_DEV)
#define K_SOCKET_SK AT_LOAD(K_SOCKET_SK)
#define K_UNIX_PEER AT_LOAD(K_UNIX_PEER)
#define K_UNIX_ADDR AT_LOAD(K_UNIX_ADDR) /* 0: the kernel has no unix sockets */
#define K_UNIX_ADDRESS_LEN AT_LOAD(K_UNIX_ADDRESS_LEN)
#define K_UNIX_ADDRESS_NAME AT_LOAD(K_UNIX_ADDRESS_NAME)
#define K_EPPOLL_WAIT AT_LOAD(K_EPPOLL_WAIT)
#define K_EPPOLL_BASE AT_LOAD(K_EPPOLL_BASE)
#define K_EPITEM_FILE AT_LOAD(K_EPITEM_FILE)
#define K_SK_FAMILY AT_LOAD(K_SK_FAMILY)
#define K_SK_TYPE AT_LOAD(K_SK_TYPE)
#define K_SK_STATE AT_LOAD(K_SK_STATE)
#define K_SK_NUM AT_LOAD(K_SK_NUM)
#define K_SK_DPORT AT_LOAD(K_SK_DPORT)
#define K_SK_RCV_SADDR AT_LOAD(K_SK_RCV_SADDR)
#define K_SK_DADDR AT_LOAD(K_SK_DADDR)
#define K_SK_V6_RCV_SADDR AT_LOAD(K_SK_V6_RCV_SADDR)
#define K_SK_V6_DADDR AT_LOAD(K_SK_V6_DADDR)
#define K_SK_BIND AT_LOAD(K_SK_BIND) /* in inet_connection_sock; 0 if not known */
#define K_BIND_REUSE AT_LOAD(K_BIND_REUSE)

/* System calls whose first argument is a file descriptor: bit n of word n / 64. */
#define FD_SYSCALLS_0 AT_LOAD(FD_SYSCALLS_0)
#define FD_SYSCALLS_1 AT_LOAD(FD_SYSCALLS_1)
#define FD_SYSCALLS_2 AT_LOAD(FD_SYSCALLS_2)
#define FD_SYSCALLS_3 AT_LOAD(FD_SYSCALLS_3)
#define FD_SYSCALLS_4 AT_LOAD(FD_SYSCALLS_4)
#define FD_SYSCALLS_5 AT_LOAD(FD_SYSCALLS_5)
#define FD_SYSCALLS_6 AT_LOAD(FD_SYSCALLS_6)

/* The target, in our own PID namespace. */
#define TARGET_PID AT_LOAD(TARGET_PID)
#define PID_NAMESPACE_DEV AT_LOAD(PID_NAMESPACE_DEV)
#define PID_NAMESPACE_INO AT_LOAD(PID_NAMESPACE_INO)

/* Whether the program runs at runtime.coroswitch_m. */
#define COROSWITCH AT_LOAD(COROSWITCH)

/* Whether the program runs where a goroutine is created, and not at runtime.ready. */
#define AT_CREATION AT_LOAD(AT_CREATION)

/* Whether the new goroutine is in AX there, and not in BX. */
#define CREATED_IN_AX AT_LOAD(CREATED_IN_AX)

/* Whether the creation of goroutines is probed. */
#define SEES_CREATION AT_LOAD(SEES_CREATION)

/* Whether arrivals are known by struct file (the kprobe) and not by struct sock. */
#define BY_FILE AT_LOAD(BY_FILE)

/* Whether connections are told apart by their server's end alone (Options.fold_ports). */
#define FOLD_PORTS AT_LOAD(FOLD_PORTS)

/* Whether runtime.stopTheWorldWithSema takes a reason (Go 1.21). */
#define HAS_STOP_REASON AT_LOAD(HAS_STOP_REASON)

/* The user's options; 0 switches one off. */
#define BY_THREAD AT_LOAD(BY_THREAD)
#define WAKERS AT_LOAD(WAKERS)
#define LEAN AT_LOAD(LEAN) /* only the end of intervals is probed */
#define FROM_READY AT_LOAD(FROM_READY) /* intervals begin where a goroutine becomes runnable; where it is does not matter */
#define THREADS AT_LOAD(THREADS) /* tracepoints tell what the kernel does with threads; if not, only when one turns away from a goroutine */
#define MIN_BLOCK_NS AT_LOAD(MIN_BLOCK_NS)
#define SAMPLE_NS AT_LOAD(SAMPLE_NS)
#define ONLY_GOID AT_LOAD(ONLY_GOID)
#define PER_GOROUTINE AT_LOAD(PER_GOROUTINE)
#define KIND_FILTER AT_LOAD(KIND_FILTER)
#define KIND_MASK AT_LOAD(KIND_MASK)
#define REASON_MASK AT_LOAD(REASON_MASK)
#define MORE_ROWS AT_LOAD(MORE_ROWS) /* the maps of stacks and of intervals have others beside them, which grow, for when they are full */
#define GOVERNED AT_LOAD(GOVERNED) /* struct knobs holds */
#define STREAM AT_LOAD(STREAM)
#define STREAM_NS AT_LOAD(STREAM_NS)

/* How many functions serve requests that are told (bpf/requests.c), and of how many chunks the ring of each CPU is, a power of two. */
#define SPANS AT_LOAD(SPANS)
#define HISTORY_CHUNKS AT_LOAD(HISTORY_CHUNKS)
