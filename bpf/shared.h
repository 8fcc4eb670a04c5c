/* What the BPF programs and gotrace/kernel/structs.py share. tests/unit/kernel/test_structs.py compares sizes and offsets.
 * MAX_FRAMES and BUCKETS come as -D definitions from gotrace/kernel/program.py. */
#pragma once

enum phase {
	PHASE_OFF = 0,   /* not begun, or over: nothing is recorded */
	PHASE_TRACE = 1, /* inside the window, and after it while open intervals are still being closed at its end */
};

struct config {
	u64 phase;
	u64 window_start_ns; /* CLOCK_MONOTONIC, as bpf_ktime_get_ns */
	u64 window_end_ns;   /* 0 while it is not known */
	u64 execed;          /* the target called exec: its addresses mean nothing any more */
	u64 tgid;            /* the kernel's own number of the process, in no namespace; 0 until a probe was hit */
};

/* What user space changes while the probes are in place, if it caps the target's cost. No program writes here. */
struct knobs {
	u64 sample_ns;       /* as --sample-period; 0: every interval */
	u64 creation_unseen; /* the probe on creation was removed for a while: a goroutine's first run may be of one younger than the window
	*/
	u64 span_until_ns;   /* requests that begin from then on are of no interest; 0: all are */
};

#define GOROUTINE_BORN 1   /* it ran for the first time inside the window */
#define GOROUTINE_UNSURE 2 /* first seen by a tracepoint: its start probe may have been hit just before the window began */

#define GOROUTINE_ENDED 4
#define GOROUTINE_STEADY 8 /* the stack was at the same place in its last two waits */

/* How long the process was stopped: by a signal, a freezer or a debugger. Taken from its leading thread, which all of these stop with
 * the others: so one CPU at a time writes here. */
struct halt {
	u64 since; /* 0 while it may run */
	u64 total_ns;
};

/* Stop-the-world pauses; written by the programs alone. */
struct world {
	u64 stopped_since; /* 0 while the world runs */
	u64 stopped_ns;    /* sum of the pauses that are over */
	u64 reason;
	u64 pauses;        /* how many began inside the window */
};

struct pause {
	u64 start_ns;
	u64 duration_ns; /* 0 while it lasts */
	u64 reason;      /* runtime.stwReason, 0 where the version has none */
};

/* One per g struct, never deleted: g structs are recycled by the Go runtime, not freed. */
struct goroutine {
	u64 start_ns;   /* when it left the CPU, 0 while it runs */
	u64 data_ns;    /* when the kernel had what it waits for, 0 if unknown */
	u64 ready_ns;   /* when it became runnable, 0 if it has not yet */
	u64 waker;      /* the waker's stack, in `stacks` */
	u64 waker_goid;
	u64 object;     /* what it waited for: a file's number in `objects`, or bpf/waited.c */
	u64 arrival;    /* its key in `watched`, 0 if the kernel will not tell */
	u64 stopped_at_start; /* how long the world had been stopped in total, then */
	u64 stopped_at_data;
	u64 stopped_at_ready;
	u64 halted_at_start; /* how long the process had been stopped in total, then */
	u64 halted_at_ready;
	u64 slice_base; /* run_ns when it was last resumed */
	u64 long_run_ns; /* the run that ended when it left the CPU, 0 unless it was a long one */
	u64 run_since;  /* when it began to run with a CPU, 0 if it does not */
	u64 run_ns;     /* sums since it was created or the window began: running with a CPU, and in closed intervals */
	u64 off_ns;
	u64 last_key;   /* hash of the last interval key counted for it, and its goid: saves a look-up in `members` */
	u64 margin_ns;  /* mode lean: how much earlier it may have left the CPU */
	u64 last_stack; /* the last stacks of its waits and of its wakers known to be in `stacks`: saves look-ups there */
	u64 last_waker;
	u64 last_object; /* likewise, in `objects` */
	u64 last_fp;    /* where the first frame of its last wait was */
	u64 unseen_ns;  /* how long its thread had no CPU when the window began, for an unknown cause; and its goid then */
	u64 unseen_goid;
	u32 kind;       /* enum StartKind of gotrace/common/vocabulary.py */
	u16 flags;      /* GOROUTINE_* */
	u16 spans;      /* functions that serve a request on it now, a bit each */
	u32 thread;     /* mode lean: the thread on which it was last resumed */
	u32 last_size;  /* how far above last_fp its stack ended */
};

#define THREAD_BEFORE 1     /* user space found it off its CPU when the window began */
#define THREAD_CONTINUES 2  /* it sleeps again in the last wait of its goroutine, which has not ended */
#define THREAD_OUTSIDE 4    /* it was seen in C with no Go code below: it runs no goroutine */
#define THREAD_BASE 8       /* base_ns holds */
#define THREAD_HALTED 16    /* it is the leading thread, and stopped */
#define THREAD_QUEUED 32    /* user space found it running, or waiting for a CPU, when the window began; not seen since */
#define THREAD_HANDLER 64   /* it sleeps in a signal's handler, which has interrupted the last wait of its goroutine */

/* One per thread of the process that was seen to get or to leave a CPU. */
struct thread {
	u64 out_ns;   /* when it left its CPU, 0 while it has one */
	u64 woken_ns; /* when the kernel made it runnable, 0 if it has not yet */
	u64 g;
	u64 goid;
	u64 stack;
	u64 kernel_stack;
	u64 object;
	u64 stopped_at_out;
	u64 stopped_at_woken;
	u64 long_run_ns;
	u64 ran_ns;   /* CPU time of the thread, 0 if not known */
	u64 halted_at_out;
	u64 in_ns;    /* when it was last seen getting a CPU; 0: never, so it has had one since before the window */
	u64 base_ns;  /* its CPU time when the window began */
	u64 first_sp; /* the user stack pointer when it was first seen getting a CPU, if it has not left the CPU since; else 0 */
	u32 kind;
	u32 syscall;
	u32 how; /* how its stack was found: KIND_SYSCALL by its registers, KIND_WAKER by the saved ones, KIND_TRANSIT not at all */
	u32 throttled; /* its cgroup had used up its CPU quota when it was woken */
	u32 flags; /* THREAD_* */
	u32 unused;
};

#define WAIT_INTERRUPTIBLE 1 /* a signal can end it */
#define WAIT_INTERRUPTED 2   /* a signal or a stop did, and what it waited in is started again */
#define WAIT_COUNTED 4       /* it is in a row of `intervals`, with a weight of 1 */
#define WAIT_SHORT 8         /* so far it is too short for the user's filter */
#define WAIT_BEFORE 16       /* it began before the window */
#define WAIT_SIGNALLED 32    /* a signal woke its thread, which may find that another thread has taken it */

/* The last wait of a goroutine in the kernel, by its g: a signal may split one into pieces, and the goroutine may even change threads
 * between them. */
struct wait {
	u64 ip, sp; /* the user registers */
	u64 ns;     /* how long it has lasted in total */
	u64 first_ns, part_ns, last_ns; /* of one interval of a timeline: when it began, how much of it was the wait, and when its last
	piece ended */
	u64 stack, kernel_stack, object;
	u32 kind, syscall;
	u32 flags;  /* WAIT_* */
	u32 unused;
};

#define STACK_TRUNCATED 1    /* deeper than MAX_FRAMES */
#define STACK_UNREADABLE 2   /* the frame pointer chain broke off */
#define STACK_IN_PROLOGUE 4  /* prologue_caller is the caller of pcs[0] */
#define STACK_LEAF_CALLER 8  /* prologue_caller is the caller of pcs[0] if that function has no frame */
#define STACK_KERNEL 16
#define STACK_EXACT 32       /* pcs[0] is the next instruction, not a return address */
#define LONG_RUN_NS 10000000 /* runtime/proc.go: forcePreemptNS */
#define STACK_IN_TRANSIT 64  /* the goroutine's registers were nowhere: pcs[0] is where the thread was */
#define ASYNC_AT 2 /* pcs[] of a goroutine preempted by a signal: asyncPreempt2, asyncPreempt, the interrupted function */

#define LEAF_BLOCK_BITS 4
#define LEAF_BLOCK (1ULL << 63) /* in frame_sizes: of the functions that threads stop in, by blocks of code */
#define LEAF_PC (3ULL << 62)    /* and by instruction, where a block has several sizes */
#define BY_SIZES 1
#define BY_LEAF_SIZES 2

struct stack {
	u32 flags;
	u32 depth;
	u32 span;  /* bytes from the stack pointer of pcs[0] to above the last return address that was found; 0: unknown */
	u32 first; /* to above the return address that the frame pointer of pcs[0] leads to */
	u64 prologue_caller; /* stopped in a prologue by newstack, or anywhere by the kernel: the word at its stack pointer */
	u64 async_caller;    /* preempted asynchronously: the word at the stack pointer of pcs[ASYNC_AT] */
	u64 pcs[MAX_FRAMES]; /* leaf first */
};

/* What unix sockets are bound to. If the first byte is 0, it is an abstract name. */
#define UNIX_PATH_BYTES 128 /* 108 at most (include/uapi/linux/un.h); the verifier needs a power of two */
struct unix_path {
	u8 path[UNIX_PATH_BYTES];
};

/* What a file descriptor is; ports and addresses as the kernel keeps them (the peer's port in network order). For a unix socket,
 * `peer` begins with the key in `unix_paths`. */
struct object {
	u64 ino;
	u32 dev;
	u32 mode;
	u32 fd;
	u16 family;
	u16 type;
	u16 local_port;
	u16 peer_port;
	u32 state;
	u8 local[16];
	u8 peer[16];
};

#define OBJECT_FOLDED 0x100 /* the state of one that stands for all connections with the same ends but for one port, which is 0 */

#define SELECT_CASES 8

/* What goroutines wait for in Go. The key is its address, or the number of a select's channels. */
struct waited {
	u64 cases; /* of a select, else 0 */
	u64 channels[SELECT_CASES]; /* the first of them */
};

/* The stages of an interval, in order. */
#define PART_MAIN 0     /* what it began as: waiting, preempted, in a system call, ... */
#define PART_NETPOLL 1  /* the kernel has the event, the netpoller does not know yet */
#define PART_RUNNABLE 2 /* runnable, no P took it */
#define PART_RUNQUEUE 3 /* its thread waits for a CPU */
#define PARTS 4
#define PART_THROTTLED 4 /* in place of PART_RUNQUEUE: the cgroup had used up its CPU quota */

/* When data came for a file that a goroutine waits for, and what the kernel was doing then. The key in `watched` is the
 * address of its struct sock, or of its struct file where the kernel has kprobes, with the lowest bit set for writers. */
struct arrival {
	u64 when; /* 0 until then */
	u64 stopped_ns;
	u64 stack;
};

/* The parts of an interval share stack, kind and reason. Only the first has a kernel stack; the first and the wait for a P have a
 * waker; the first two have an object. */
struct interval_key {
	u64 stack;
	u64 kernel_stack;
	u64 waker;
	u64 object;
	u64 goid;   /* 0 unless goroutines are kept apart */
	u64 labels; /* of the goroutine, in `label_values`; LABELS_* or 0 */
	u32 reason; /* g.waitreason if the kind is, or may turn out to be, a park; else 0 */
	u32 kind;
	u32 part;
	u32 syscall; /* its number if the kind is a system call */
};

struct interval_value {
	u64 count;
	u64 total_ns;
	u64 max_ns;
	u64 squares_low; /* sum of the low and of the high 32 bits of (duration / 256 ns) squared */
	u64 squares_high;
	u64 in_progress; /* intervals that began before the window or were cut by its end */
	u64 stopped_ns;  /* part of the total inside stop-the-world pauses */
	u64 halted_ns;   /* part of the total while the process was stopped from outside */
	u64 late_ns;     /* part of the total after a sleep was due to end */
	u64 long_runs;   /* intervals that ended a run of more than LONG_RUN_NS */
	u64 long_run_max_ns;
	u64 margin_ns;   /* mode lean: how much too small the total may be */
	u64 variance;    /* of total_ns, by sampling; in (256 ns) squared */
	u32 histogram[BUCKETS];
};

struct member_key {
	u64 key; /* hash of stack, reason and kind */
	u64 goid;
};

struct event {
	u64 start_ns;
	u64 duration_ns;
	u64 goid;
	u64 waker_goid;
	struct interval_key key;
	u32 tid; /* the thread on which the goroutine continues, as the kernel numbers it */
	u32 flags; /* EVENT_* */
};

#define EVENT_MAY_GO_ON 1 /* a wait in the kernel: a signal may have interrupted it */
#define EVENT_GOES_ON 2   /* replaces the event of the same goroutine that began at the same moment */

#define SPAN_FUNCTIONS 8 /* a power of two */
#define SPAN_BEGIN 1
#define SPAN_END 2
#define SPAN_GOEXIT 3
#define SPAN_RECOVERY 4
#define SPAN_ARGUMENT_BX 1 /* where the function finds its request: 0, nowhere */
#define SPAN_ARGUMENT_CX 2
#define SPAN_ARGUMENT_DI 3
#define SPAN_ARGUMENT_METHOD 4 /* in R8, else in R10: whichever points to the name of a gRPC method */

/* A probed instruction, by its address in the process. */
struct span_site {
	u32 function;
	u32 kind;     /* SPAN_BEGIN, ... */
	u64 sp_above; /* how far above the stack pointer the function's return address lies */
	u64 argument; /* SPAN_ARGUMENT_* */
};

/* Waits inside a request, of one row. */
struct span_wait {
	u64 row; /* row_hash of its key; of its key with no more than state and reason where there was no room for more; 0 */
	u64 ns;
	u64 count;
};

#define SPAN_WAITS 32 /* different ones of a request; a power of two */
#define SPAN_COARSE 8 /* the last of these have state and reason alone */

#define SPAN_OVERFLOWED 1 /* it had more different waits than there is room for */
#define SPAN_LATE 2       /* it began when no more were wanted */

#define SPAN_LABELS 4 /* of a request; what is beyond is left out */
#define LABEL_KEY 24
#define LABEL_VALUE 64

/* A profiler label of a goroutine, as far as there is room. */
struct span_label {
	u32 key_bytes; /* of the whole, which may be longer; 0: there is no label */
	u32 value_bytes;
	u8 key[LABEL_KEY];
	u8 value[LABEL_VALUE];
};

/* The labels by which goroutines are kept apart (--label): up to so many, with keys of up to so many bytes. */
#define WANTED_LABELS 4
#define WANTED_KEY 64
#define LABEL_ABSENT 0xFFFFFFFF /* in place of a value's length */

/* The wanted labels that a goroutine has, under their hash: each value's length, and its first bytes. */
struct label_values {
	u32 bytes[WANTED_LABELS];
	u8 value[WANTED_LABELS][LABEL_VALUE];
};

#define LABELS_OTHER 1  /* `label_values` has no room for these */
#define LABELS_UNREAD 2 /* they could not be read, or make no sense */

/* The last labels of a goroutine, by its g. */
struct labelled {
	u64 at;     /* g.labels then; ~0 if they could not be read */
	u64 labels; /* as in struct interval_key */
};

struct span_key {
	u64 g;
	u64 function;
};

/* A request that a goroutine serves with one function, the outermost call of it. Rows stay, as g structs do. */
struct span {
	u64 start_ns; /* 0: there is none */
	u64 goid;
	u64 depth;    /* of its return address, from the top of the stack down: stays as it is when the stack is copied */
	u64 off_ns;   /* how long the goroutine had been off its CPU in all, at its start */
	u64 over_ns;  /* when a panic was recovered: its end, if that was further out; else 0 */
	u64 off_over_ns; /* as off_ns, then */
	u64 request;  /* the function's argument */
	u64 labels_at; /* g.labels where `labels` were copied */
	struct span_label labels[SPAN_LABELS];
	u32 used;     /* of waits */
	u32 flags; /* SPAN_* */
	struct span_wait waits[SPAN_WAITS];
};

#define TOLD_METHOD 16
#define TOLD_PATH 128

/* What a slow request was: read as it ended, when it was still there. */
struct told_key {
	u64 goid;
	u64 start_ns;
};

struct told {
	u8 method[TOLD_METHOD];
	u8 path[TOLD_PATH];
	u32 method_bytes; /* of the whole, which may be longer */
	u32 path_bytes;
	struct span_label labels[SPAN_LABELS];
};

/* Written by user space. */
struct span_function {
	u64 slow_ns; /* requests that take as long are told */
	u64 method;  /* where in the function's argument the method is, a Go string; ~0: nowhere */
	u64 url;     /* where in it a pointer to what has the path is; ~0: the argument itself has it */
	u64 path;    /* where the path is, another string; ~0: nowhere */
};

#define SPAN_BEGUN_BEFORE 0xFFFFFFFF /* in place of a bucket */

/* Completed requests of one function, by duration: in all (row 0, and no waits), and their waits of one row. */
struct span_row_key {
	u64 row;
	u32 function;
	u32 bucket;
};

struct span_row {
	u64 count;
	u64 total_ns;
	u64 cpu_ns; /* running with a CPU */
	u64 max_ns;
};

#define HAPPENED_INTERVAL 1
#define HAPPENED_REQUEST 2
#define HISTORY_RECORDS 1024 /* of a chunk; a power of two */

/* What has happened, in the ring of a CPU: a part of an interval, or a request. */
struct happening {
	u64 start_ns;
	u64 duration_ns;
	u64 goid;
	u64 waker_goid; /* of a request: the function's argument */
	u64 row;        /* of a request: the bucket of its duration, or SPAN_BEGUN_BEFORE */
	u32 what;       /* HAPPENED_*, and from bit 2 on, of a request the function; of an interval its kind, from bit 10 the reason, from 18 the part */
	u32 number;     /* its own, from 1 on, and 0 as long as it is not whole */
};

struct history {
	struct happening of[HISTORY_RECORDS];
};

struct history_head {
	u64 next;
};
