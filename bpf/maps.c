/* Exact off-CPU intervals of goroutines: opened where a goroutine leaves its CPU, closed where it resumes, split into the stages
 * in between, and summed up here. The programs only read the target's memory.
 *
 * One translation unit, compiled from these files in this order: maps.c stack.c resuming.c kernel_stack.c labels.c spans.c record.c
 * objects.c waited.c starts.c goroutines.c wakers.c world.c task.c waits.c off_cpu.c threads.c syscalls.c requests.c exec.c. Kinds
 * (KIND_*), counters (STAT_*) and sizes (MAX_*, BUCKETS) are defined by gotrace/kernel/program.py; what depends on the target, the
 * kernel or the user is in at_load.h. gotrace/kernel/program.py sets the number of entries of a map when it creates the map: the 1
 * here is a placeholder.
 */
#include <linux/types.h>
#include "at_load.h"
#include "shared.h"

/* arch/x86/include/asm/ptrace.h; the order is ABI. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define EFLAGS_CF 0x01
#define EFLAGS_ZF 0x40

BPF_TABLE("array", u32, struct config, config, 1);
BPF_TABLE("array", u32, struct knobs, knobs, 1);
/* All counters of a CPU in one element, so that one system call reads them. */
struct counters {
	u64 of[STAT_COUNT];
};
BPF_TABLE("percpu_array", u32, struct counters, stats, 1);
BPF_TABLE("hash", u64, struct goroutine, goroutines, 1);
BPF_TABLE("hash", u32, struct thread, threads, 1);
BPF_TABLE("lru_hash", u64, struct wait, waits, 1);
BPF_TABLE("hash", u64, struct stack, stacks, 1);
BPF_TABLE("hash", u64, struct stack, more_stacks, 1); /* for those that do not fit, if MORE_ROWS */
/* Used where code that is not Go's has broken the chain of frame pointers: how far above the stack pointer a function's return address is,
 * by the return address into the function (BY_SIZES); for a function in which a thread stops, by the block of code,
 * LEAF_BLOCK | pc >> LEAF_BLOCK_BITS, if it is the same in the whole block, else by the instruction, LEAF_PC | pc (BY_LEAF_SIZES).
 * User space fills it when it meets such a stack; the first element of `by_sizes` tells what has been filled. */
BPF_TABLE("hash", u64, u64, frame_sizes, 1);
BPF_TABLE("array", u32, u64, by_sizes, 1);
BPF_TABLE("hash", u64, struct object, objects, 1);
BPF_TABLE("hash", u64, struct unix_path, unix_paths, 1);
BPF_TABLE("hash", u64, struct arrival, watched, 1);
BPF_TABLE("hash", u64, struct waited, waited_channels, 1);
BPF_TABLE("hash", u64, struct waited, waited_locks, 1);
BPF_TABLE("hash", u64, u64, waited_before, 1); /* user space: by g, what goroutines that have not moved since the window began wait for */
BPF_TABLE("array", u32, u64, sudog_place, 1); /* how far above gopark's frame pointer semacquire1 has its sudog; 0: not found yet */
BPF_TABLE("array", u32, struct world, world, 1);
BPF_TABLE("array", u32, struct halt, halt, 1);
BPF_TABLE("array", u32, struct pause, pauses, MAX_PAUSES);
BPF_TABLE("hash", struct interval_key, struct interval_value, intervals, 1);
BPF_TABLE("hash", struct interval_key, struct interval_value, more_intervals, 1); /* likewise */
BPF_TABLE("hash", struct member_key, u64, members, 1);
BPF_TABLE("hash", u64, struct labelled, labelled, 1);
BPF_TABLE("hash", u64, struct label_values, label_values, 1);
BPF_TABLE("hash", u32, u64, last_g, 1); /* probe sets "schedule" and "lean": the goroutine that a thread resumed last */
BPF_RINGBUF_OUTPUT(events, 1);
BPF_TABLE("hash", u64, struct span_site, span_sites, 1);
BPF_TABLE("hash", struct span_key, struct span, spans, 1);
BPF_TABLE("array", u32, struct span, blank_span, 1); /* never written: new rows of `spans` are made from it */
BPF_TABLE("hash", struct span_row_key, struct span_row, span_rows, 1);
BPF_TABLE("array", u32, struct span_function, span_functions, SPAN_FUNCTIONS);
BPF_TABLE("hash", struct told_key, struct told, told, 1);
BPF_TABLE("array", u32, struct told, blank_told, 1); /* never written, likewise */
BPF_TABLE("array", u32, struct history, history, 1); /* HISTORY_CHUNKS for each CPU */
BPF_TABLE("percpu_array", u32, struct history_head, history_heads, 1);

/* What is known of an interval before its stack is walked. It is read back after the walk: if the verifier knew the values,
 * it would follow the walk's loop once for each of their combinations. */
struct pending {
	u64 g, from, weight, goid, stack, kernel_stack, waker, waker_goid, object, labels;
	u64 part_ns[PARTS];
	u64 stopped_ns[PARTS];
	u64 halted_ns[PARTS];
	u64 late_ns; /* of PART_MAIN */
	u64 long_run_ns;
	u64 margin_ns;
	u64 depth;      /* of the goroutine's stack then */
	u64 piece_ns;   /* how much of PART_MAIN no request has been told of */
	u64 carried_ns; /* how long this wait had lasted when it was interrupted; that part is counted already */
	u64 event_from, event_ns; /* of PART_MAIN, as the single interval to which it belongs */
	u32 kind, reason, in_progress, syscall;
	u32 last_part, tid;
	u32 event_flags, recorded;
};

#define PAGE 4096
#define WINDOW 2048 /* bytes of a stack that are read at once; a power of two */

struct scratch {
	u64 busy;
	u64 last_g0, last_m; /* bpf/wakers.c: current_goroutine */
	volatile struct pending pending;
	struct stack stack;
	struct event event; /* not on the BPF stack, which has 512 bytes */
	struct interval_value zero; /* never written: new rows of `intervals` are copied from it */
	struct pt_regs regs;
	volatile struct thread thread;
	u8 g[MAX_G_READ + 8];
	volatile u64 window_from, window_bytes, window_lo, window_hi; /* the part of a stack that is in `window` */
	volatile u32 foreseen; /* the window was read before the g, and it is where the g has its stack */
	volatile u64 strict;     /* frame sizes take precedence over frame pointers */
	volatile u64 part_at, part_ns, part_row, part_coarse; /* bpf/spans.c, likewise */
	volatile u32 part_number, span_slot;
	struct span_key span;
	struct member_key member;
	u64 list[2];
	u64 label[SPAN_LABELS][4]; /* bpf/labels.c: where the bytes of key and value are, and how many */
	u64 pair[4];               /* likewise */
	volatile u64 wanted_hash;
	volatile u32 wanted_whole; /* no label was left out */
	struct label_values wanted;
	u64 wanted_key[2 * WANTED_KEY / 8];
	struct interval_key key;
	struct interval_key rough; /* of which stacks, object, goid and labels are never set */
	volatile u32 strayed;  /* the walk has since read more than the window */
	u8 window[2 * WINDOW]; /* of a stack, or of one of the kernel's structs */
	u8 path[UNIX_PATH_BYTES];
	struct waited waited; /* bpf/waited.c */
	volatile u64 kernel_from, kernel_low, kernel_bytes, frame; /* bpf/kernel_stack.c */
	u8 kernel[2 * PAGE + 8];
};
BPF_TABLE("percpu_array", u32, struct scratch, scratch, SCRATCH_SLOTS);

/* A four-byte key in an eight-byte variable that is written whole. If only half of a word on the stack were written, the
 * verifier would treat the other half as readable, and would follow all paths separately on which it differs. */
#define NARROW(key) ((u32 *)&(key))

static __always_inline void count_ns(u32 stat, u64 amount)
{
	u64 zero = 0;
	struct counters *counters = stats.lookup(NARROW(zero));
	if (counters)
		__sync_fetch_and_add(&counters->of[stat], amount); /* a uprobe program can be preempted on newer kernels */
}

static __always_inline void count(u32 stat)
{
	count_ns(stat, 1);
}

/* NULL outside the trace and before its window. */
static __always_inline struct config *configuration(u64 now)
{
	u64 zero = 0;
	struct config *c = config.lookup(NARROW(zero));
	return c && c->phase == PHASE_TRACE && now >= c->window_start_ns ? c : NULL;
}

/* --sample-period, or what user space has set since. */
static __always_inline u64 sample_period(void)
{
	u64 zero = 0;
	struct knobs *k = GOVERNED ? knobs.lookup(NARROW(zero)) : NULL;
	return k ? k->sample_ns : SAMPLE_NS;
}

/* Whether goroutines that run for the first time, and that no probe has seen, are older than the window. */
static __always_inline u32 sees_creation(void)
{
	u64 zero = 0;
	struct knobs *k = GOVERNED ? knobs.lookup(NARROW(zero)) : NULL;
	return SEES_CREATION && !(k && k->creation_unseen);
}

/* Whether the window is over: open intervals are closed at its end, and none begins. Decided by the clock, not by a switch set by
 * user space, so that all programs agree on the instant. */
static __always_inline u32 draining(struct config *c, u64 now)
{
	return c->window_end_ns && now >= c->window_end_ns;
}

/* How long the world has been stopped in total. The pauses within a span of time are the difference of this at its two
 * ends. */
static __always_inline u64 stopped_until(u64 now)
{
	u64 zero = 0;
	struct world *w = world.lookup(NARROW(zero));
	if (!w)
		return 0;
	u64 since = *(volatile u64 *)&w->stopped_since;
	return w->stopped_ns + (since && now > since ? now - since : 0);
}

/* Likewise, how long the process has been stopped from outside in total. */
static __always_inline u64 halted_until(u64 now)
{
	u64 zero = 0;
	struct halt *h = halt.lookup(NARROW(zero));
	if (!h)
		return 0;
	u64 since = *(volatile u64 *)&h->since;
	return h->total_ns + (since && now > since ? now - since : 0);
}

/* The part of `duration` between two results of stopped_until, or of halted_until. */
static __always_inline u64 stopped_between(u64 before, u64 after, u64 duration)
{
	u64 stopped = after > before ? after - before : 0;
	return stopped < duration ? stopped : duration;
}

static __always_inline void release_scratch(struct scratch *s)
{
	__sync_fetch_and_add(&s->busy, -1);
}

static __always_inline struct scratch *acquire_scratch(void)
{
	/* Several slots per CPU, each with an owner: newer kernels may preempt a uprobe program for another thread's. A program
	 * that finds itself alone after announcing itself has the slot; if two meet, at most one has it. */
	for (u32 slot = 0; slot < SCRATCH_SLOTS; slot++) {
		u64 index = slot;
		struct scratch *s = scratch.lookup(NARROW(index));
		if (!s)
			return NULL;
		__sync_fetch_and_add(&s->busy, 1);
		if (*(volatile u64 *)&s->busy == 1)
			return s;
		release_scratch(s);
	}
	return NULL;
}

/* A word of the g that was read into the scratch space. */
static __always_inline u64 word(struct scratch *s, u64 offset)
{
	return *(u64 *)(s->g + offset);
}

static __always_inline u64 user_word(u64 address)
{
	u64 value = 0;
	bpf_probe_read_user(&value, 8, (void *)address);
	return value;
}

static __always_inline u64 kernel_word(u64 address)
{
	u64 value = 0;
	bpf_probe_read_kernel(&value, 8, (void *)address);
	return value;
}

