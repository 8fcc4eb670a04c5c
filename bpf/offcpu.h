/* What the BPF programs and gotrace/kernel/structs.py share. tests/unit/test_structs.py compares sizes and offsets.
 * MAX_FRAMES and BUCKETS come as -D definitions from gotrace/kernel/program.py. */
#pragma once

enum phase {
	PHASE_OFF = 0,   /* not begun, or over: nothing is recorded */
	PHASE_TRACE = 1, /* inside the window */
	PHASE_DRAIN = 2, /* after the window: open intervals are closed at its end, none begins */
};

struct config {
	u64 phase;
	u64 window_start_ns; /* CLOCK_MONOTONIC, as bpf_ktime_get_ns */
	u64 window_end_ns;   /* valid in PHASE_DRAIN */
	u64 execed;          /* the target called exec: its addresses mean nothing any more */
};

/* One per g struct, never deleted: g structs are recycled by the Go runtime, not freed. */
struct goroutine {
	u64 start_ns; /* when it left the CPU, 0 while it runs */
	u64 last_key; /* hash of the last interval key counted for it, and its goid: saves a look-up in `members` */
	u32 kind;     /* enum StartKind of gotrace/vocabulary.py */
	u32 unused;
};

struct interval_key {
	u64 stack;  /* 64-bit hash of the program counters */
	u64 goid;   /* 0 unless goroutines are kept apart */
	u32 reason; /* g.waitreason if the kind is a park, else 0 */
	u32 kind;
};

#define STACK_TRUNCATED 1   /* deeper than MAX_FRAMES */
#define STACK_UNREADABLE 2  /* the frame pointer chain broke off */
#define STACK_IN_PROLOGUE 4 /* prologue_caller is the caller of pcs[0] */

struct interval_value {
	u64 count;
	u64 total_ns;
	u64 max_ns;
	u64 squares_low; /* sum of the low and of the high 32 bits of (duration / 256 ns) squared */
	u64 squares_high;
	u64 goroutines;  /* distinct goids */
	u64 in_progress; /* intervals that began before the window or were cut by its end */
	u32 flags;
	u32 depth;
	u64 prologue_caller; /* stopped in a prologue by newstack: the word at its stack pointer */
	u64 async_caller;    /* preempted asynchronously: the word at the stack pointer of pcs[async_at] */
	u32 async_at;
	u32 unused;
	u64 pcs[MAX_FRAMES]; /* leaf first */
	u32 histogram[BUCKETS];
};

struct member_key {
	u64 key; /* hash of the interval key without its goid */
	u64 goid;
};

struct event {
	u64 start_ns;
	u64 duration_ns;
	u64 goid;
	u64 stack;
	u64 key_goid;
	u32 reason;
	u32 kind;
};
