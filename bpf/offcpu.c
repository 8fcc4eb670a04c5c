/* Exact off-CPU intervals of goroutines: opened where one leaves its CPU, closed where it resumes, summed up here.
 *
 * Two traps per interval. The stack is walked at the end, from the registers that the scheduler saved in the g
 * (runtime/runtime2.go: gobuf): until gogo it is at rest and complete. Nothing is walked for intervals that are filtered
 * or sampled away. The programs only read the target's memory.
 *
 * Definitions by gotrace/kernel/program.py: the layout of runtime.g (G_*), code addresses (*_LO, *_HI, MCALL), start
 * kinds (KIND_*), counters (STAT_*), map sizes (MAX_*) and the filters of the command line.
 */
#include <linux/types.h>
#include "offcpu.h"

/* arch/x86/include/asm/ptrace.h; the order is ABI. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define EFLAGS_CF 0x01
#define EFLAGS_ZF 0x40
#define G_READ (G_WAITREASON + 1)
#define SCRATCH_SLOTS 4

BPF_TABLE("array", u32, struct config, config, 1);
BPF_TABLE("percpu_array", u32, u64, stats, STAT_COUNT);
BPF_TABLE("hash", u64, struct goroutine, goroutines, MAX_GOROUTINES);
BPF_TABLE("hash", struct interval_key, struct interval_value, intervals, MAX_STACKS);
BPF_TABLE("hash", struct member_key, u64, members, MAX_MEMBERS);
#if STREAM
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#endif
#if BY_THREAD
BPF_TABLE("hash", u32, u64, last_g, MAX_THREADS);
#endif

struct scratch {
	u64 busy;
	struct interval_value value;
	u8 g[G_READ + 8];
};
BPF_TABLE("percpu_array", u32, struct scratch, scratch, SCRATCH_SLOTS);

static __always_inline void count(u32 stat)
{
	u64 *value = stats.lookup(&stat);
	if (value)
		__sync_fetch_and_add(value, 1); /* a uprobe program can be preempted on newer kernels */
}

static __always_inline struct config *configuration(void)
{
	u32 zero = 0;
	struct config *c = config.lookup(&zero);
	return c && c->phase != PHASE_OFF ? c : NULL;
}

/* ---- starts ------------------------------------------------------------------------------------------------------ */

static __always_inline void open_interval(struct config *c, u64 g, u32 kind, u64 now)
{
	struct goroutine *known = goroutines.lookup(&g);
	if (c->phase == PHASE_DRAIN)
		now = 0; /* only remember that the goroutine was running at the end of the window */
	if (known) {
		if (!now)
			return;
		if (known->start_ns)
			count(STAT_START_WHILE_STOPPED);
		known->kind = kind;
		known->start_ns = now;
		return;
	}
	struct goroutine new = {.start_ns = now, .kind = kind};
	if (goroutines.update(&g, &new))
		count(STAT_GOROUTINE_TABLE_FULL);
}

static __always_inline int start(u64 g, u32 kind)
{
	struct config *c = configuration();
	if (!c)
		return 0;
	count(STAT_HITS_START);
	open_interval(c, g, kind, bpf_ktime_get_ns());
	return 0;
}

/* These run on g0 with the goroutine in AX (register ABI: the functions' first argument). */
int start_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PARK); }
int start_gosched(struct pt_regs *ctx) { return start(ctx->ax, KIND_GOSCHED); }
int start_yield(struct pt_regs *ctx) { return start(ctx->ax, KIND_YIELD); }
int start_preempt_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PREEMPT_PARK); }
int start_exit_syscall(struct pt_regs *ctx) { return start(ctx->ax, KIND_EXIT_SYSCALL); }
int start_coroswitch(struct pt_regs *ctx) { return start(ctx->ax, KIND_COROSWITCH); }

/* Probe set "gopark": on the goroutine itself (R14 = g), at the jbe of the stack check. If that branch is taken the
 * stack grows and the function runs again from its entry: this hit must not count. */
int start_gopark(struct pt_regs *ctx)
{
	if (ctx->flags & (EFLAGS_CF | EFLAGS_ZF))
		return 0;
	return start(ctx->r14, KIND_PARK);
}

#if BY_THREAD
/* Probe set "schedule": the goroutine that this thread last resumed has left it, whichever way. */
int start_schedule(struct pt_regs *ctx)
{
	struct config *c = configuration();
	if (!c)
		return 0;
	count(STAT_HITS_START);
	u32 thread = bpf_get_current_pid_tgid();
	u64 *g = last_g.lookup(&thread);
	if (g && *g) {
		open_interval(c, *g, KIND_SCHEDULE, bpf_ktime_get_ns());
		*g = 0;
	}
	return 0;
}

static __always_inline void resumed_on_thread(struct config *c, u64 g, u64 now)
{
	u32 thread = bpf_get_current_pid_tgid();
	u64 *last = last_g.lookup(&thread);
	if (!last) {
		if (last_g.update(&thread, &g))
			count(STAT_GOROUTINE_TABLE_FULL);
		return;
	}
	if (*last && *last != g)
		open_interval(c, *last, KIND_COROSWITCH, now); /* no schedule() in between: a coroutine switch */
	*last = g;
}
#endif

/* ---- stacks ------------------------------------------------------------------------------------------------------ */

static __always_inline u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

/* mcall is the only way to the scheduler but one: newstack, called by morestack in a function's prologue. There
 * sched.bp is still the caller's frame, and the return address is the word at sched.sp. */
static __always_inline int called_mcall(u64 pc)
{
	u8 code[5];
	if (bpf_probe_read_user(code, sizeof(code), (void *)(pc - 5)) || code[0] != 0xE8)
		return 0;
	s32 relative = code[1] | code[2] << 8 | code[3] << 16 | (u32)code[4] << 24;
	return pc + relative == MCALL;
}

static __always_inline int may_be_in_prologue(u32 kind)
{
	return kind == KIND_GOSCHED || kind == KIND_PREEMPT_PARK || kind == KIND_BEFORE || kind == KIND_SCHEDULE;
}

/* Fills the stack part of `value` and returns the stack's hash. `lo` and `hi` bound the goroutine's stack: a frame
 * pointer outside, or one that does not ascend, ends the walk, so a hostile chain has no cycles and reads nothing else. */
static __always_inline u64 walk(struct interval_value *value, u64 pc, u64 sp, u64 fp, u64 lo, u64 hi, u32 kind)
{
	u64 frame[2], hash = mix(0, pc), below = lo, last = pc;
	u32 depth = 1, async = 0;

	value->flags = 0;
	value->prologue_caller = 0;
	value->async_caller = 0;
	value->async_at = 0;
	value->pcs[0] = pc;
	if (may_be_in_prologue(kind) && !called_mcall(pc)) {
		u64 caller = 0;
		if (sp >= lo && sp + 8 <= hi && !bpf_probe_read_user(&caller, 8, (void *)sp)) {
			value->prologue_caller = caller;
			value->flags |= STACK_IN_PROLOGUE;
			hash = mix(hash, caller);
			below = sp + 8;
			last = caller;
		} else {
			value->flags |= STACK_UNREADABLE;
		}
	}
	for (u32 i = 1; i < MAX_FRAMES; i++) {
		if (!fp)
			goto done;
#if CGOCALLBACK_FRAME
		/* C called back into Go: the saved frame pointer is C's, on another stack. On ours, behind cgocallback's frame,
		 * lie the program counter and the frames of the call into C (runtime/asm_amd64.s: cgocallback, asmcgocall). */
		if ((fp < lo || fp >= hi) && last >= CGOCALLBACK_LO && last < CGOCALLBACK_HI) {
			u64 behind = below + CGOCALLBACK_FRAME + 8 + ASMCGOCALL_FRAME, cgocall = 0;
			if (behind + 8 <= hi && !bpf_probe_read_user(&cgocall, 8, (void *)behind)) {
				value->pcs[i] = cgocall;
				hash = mix(hash, cgocall);
				last = cgocall;
				depth = i + 1;
				below = behind + 8;
				fp = behind + CGOCALL_FRAME;
				continue;
			}
		}
#endif
		/* The collector moved the stack during an assist and the frame pointer still points into the old one (up to Go
		 * 1.20): step over the frame by its size. */
		if ((fp < below || fp >= hi) && last >= ASSIST_LO && last < ASSIST_HI)
			fp = below + ASSIST_FRAME - 8;
		if (fp < below || fp + 16 > hi || bpf_probe_read_user(frame, sizeof(frame), (void *)fp)) {
			value->flags |= STACK_UNREADABLE;
			goto done;
		}
		if (!frame[1])
			goto done;
		/* This frame belongs to asyncPreempt: its return address is where the signal struck, and above it lies the
		 * interrupted function's stack pointer. If that function has no frame the word there is its caller. */
		if (async) {
			u64 caller = 0;
			if (fp + 24 <= hi && !bpf_probe_read_user(&caller, 8, (void *)(fp + 16)) && caller > TEXT_LO && caller < TEXT_HI) {
				value->async_caller = caller;
				value->async_at = i;
				hash = mix(hash, caller);
			}
		}
		async = frame[1] >= ASYNC_LO && frame[1] < ASYNC_HI;
		value->pcs[i] = frame[1];
		hash = mix(hash, frame[1]);
		last = frame[1];
		depth = i + 1;
		below = fp + 16;
		fp = frame[0];
	}
	if (fp)
		value->flags |= STACK_TRUNCATED;
done:
	value->depth = depth;
	return mix(hash, value->flags);
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

/* gotrace/model/histogram.py: bucket_of. */
static __always_inline u32 bucket_of(u64 value)
{
	u32 exponent = 0;
	u64 rest = value;
	if (value < SUBBUCKETS)
		return value;
	if (rest >> 32) { exponent += 32; rest >>= 32; }
	if (rest >> 16) { exponent += 16; rest >>= 16; }
	if (rest >> 8) { exponent += 8; rest >>= 8; }
	if (rest >> 4) { exponent += 4; rest >>= 4; }
	if (rest >> 2) { exponent += 2; rest >>= 2; }
	if (rest >> 1) exponent += 1;
	if (exponent >= MAX_BITS)
		return BUCKETS - 1;
	return (exponent - SUBBITS + 1) * SUBBUCKETS + ((value >> (exponent - SUBBITS)) & (SUBBUCKETS - 1));
}

static __always_inline u64 add(struct interval_value *value, u64 duration, u64 weight, u32 in_progress, u32 bucket)
{
	u64 units = duration >> 8;
	if (units >> 32)
		units = 0xFFFFFFFF;
	u64 square = units * units;
	__sync_fetch_and_add(&value->count, weight);
	__sync_fetch_and_add(&value->total_ns, duration * weight);
	__sync_fetch_and_add(&value->squares_low, (square & 0xFFFFFFFF) * weight);
	__sync_fetch_and_add(&value->squares_high, (square >> 32) * weight);
	if (in_progress)
		__sync_fetch_and_add(&value->in_progress, weight);
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&value->histogram[bucket], (u32)weight);
	u64 max = value->max_ns;
	/* Two tries: another CPU that wins twice in a row has written a maximum of its own. */
	if (duration > max && __sync_val_compare_and_swap(&value->max_ns, max, duration) != max) {
		max = value->max_ns;
		if (duration > max)
			__sync_val_compare_and_swap(&value->max_ns, max, duration);
	}
	return 0;
}

static __always_inline struct scratch *acquire_scratch(void)
{
	/* Several slots per CPU, each with an owner: newer kernels may preempt a uprobe program for another thread's. */
	for (u32 slot = 0; slot < SCRATCH_SLOTS; slot++) {
		u32 index = slot;
		struct scratch *s = scratch.lookup(&index);
		if (s && !__sync_lock_test_and_set(&s->busy, 1))
			return s;
	}
	return NULL;
}

static __always_inline u64 word(struct scratch *s, u32 offset)
{
	return *(u64 *)(s->g + offset);
}

/* Sums one closed interval up. `state` may be NULL if the goroutine table is full. */
static __always_inline void record(struct scratch *s, struct goroutine *state, u64 from, u64 to, u32 kind, u32 in_progress)
{
	u64 duration = to > from ? to - from : 0, weight = 1, goid = word(s, G_GOID);
	struct interval_key key = {};

	/* Where the start was not seen, or not its kind: gopark is the leaf of every park. */
	if (kind == KIND_BEFORE || kind == KIND_SCHEDULE) {
		u64 pc = word(s, G_SCHED_PC);
		if (pc >= GOPARK_LO && pc < GOPARK_HI)
			kind = KIND_PARK;
	}
	key.kind = kind;
	if (kind == KIND_PARK)
		key.reason = s->g[G_WAITREASON];
#if ONLY_GOID
	if (goid != ONLY_GOID) {
		count(STAT_FILTERED);
		return;
	}
#endif
#if KIND_FILTER
	if (!((KIND_MASK >> (kind & 31)) & 1) || (kind == KIND_PARK && !((REASON_MASK >> (key.reason & 63)) & 1))) {
		count(STAT_FILTERED);
		return;
	}
#endif
	if (duration < MIN_BLOCK_NS) {
		count(STAT_FILTERED);
		return;
	}
#if SAMPLE_NS
	if (duration < SAMPLE_NS) {
		/* Kept with probability duration / SAMPLE_NS, with the inverse as weight; the weight's fraction is rounded up
		 * as often as it is large, so counts and totals are unbiased. */
		u64 chance = (u64)bpf_get_prandom_u32() * SAMPLE_NS >> 32;
		if (chance >= duration) {
			count(STAT_SAMPLED_OUT);
			return;
		}
		weight = SAMPLE_NS / duration;
		u64 fraction = ((SAMPLE_NS % duration) << 16) / duration;
		if ((bpf_get_prandom_u32() & 0xFFFF) < fraction)
			weight++;
	}
#endif
	key.stack = walk(&s->value, word(s, G_SCHED_PC), word(s, G_SCHED_SP), word(s, G_SCHED_BP), word(s, G_STACK_LO),
			 word(s, G_STACK_HI), kind);
#if PER_GOROUTINE
	key.goid = goid;
#endif
	count(STAT_INTERVALS);
	if (s->value.flags & STACK_TRUNCATED)
		count(STAT_STACK_TRUNCATED);
	if (s->value.flags & STACK_UNREADABLE)
		count(STAT_STACK_UNREADABLE);

	u32 bucket = bucket_of(duration);
	struct interval_value *value = intervals.lookup(&key);
	if (!value) {
		/* The counts of the scratch value stay 0: only its stack is copied in. */
		intervals.insert(&key, &s->value);
		value = intervals.lookup(&key);
		if (!value) {
			count(STAT_STACK_TABLE_FULL);
			return;
		}
	}
	add(value, duration, weight, in_progress, bucket);

	u64 identity = mix(mix(mix(key.stack, key.reason), key.kind), goid);
	if (!state || state->last_key != identity) {
		struct member_key member = {.key = mix(mix(key.stack, key.reason), key.kind), .goid = goid};
		u64 one = 1;
		if (state)
			state->last_key = identity;
		if (!members.lookup(&member)) {
			if (!members.insert(&member, &one))
				__sync_fetch_and_add(&value->goroutines, 1);
			else if (!members.lookup(&member))
				count(STAT_GOROUTINE_SET_FULL);
		}
	}
#if STREAM
	if (duration >= STREAM_NS) {
		struct event event = {.start_ns = from, .duration_ns = duration, .goid = goid, .stack = key.stack,
				      .key_goid = key.goid, .reason = key.reason, .kind = key.kind};
		/* No wake-up: it would cost more than the rest of the probe (the reader comes by every few milliseconds). */
		if (events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP))
			count(STAT_RING_FULL);
	}
#endif
}

/* Only execute and coroswitch_m resume a goroutine through gogo; newstack (the stack has grown) and goexit0 (a locked
 * thread ends) come by as well. */
static __always_inline int resumes_goroutine(struct pt_regs *ctx)
{
	u64 caller = 0;
	if (bpf_probe_read_user(&caller, 8, (void *)ctx->sp))
		return 0;
	return (caller >= EXECUTE_LO && caller < EXECUTE_HI) || (caller >= COROSWITCH_LO && caller < COROSWITCH_HI);
}

static __always_inline int end(struct pt_regs *ctx, u64 g, u32 through_gogo)
{
	struct config *c = configuration();
	if (!c)
		return 0;
	u64 now = bpf_ktime_get_ns();
	struct goroutine *state = goroutines.lookup(&g);
	u64 from = state ? state->start_ns : 0;
	u32 kind = state ? state->kind : KIND_BEFORE, in_progress = 0;

	if (c->phase == PHASE_TRACE)
		count(STAT_HITS_END);
	if (through_gogo && !from && !resumes_goroutine(ctx)) {
		count(STAT_NOT_SCHEDULED);
		return 0;
	}
#if BY_THREAD
	if (c->phase == PHASE_TRACE)
		resumed_on_thread(c, g, now);
#endif
	if (state)
		state->start_ns = 0;

	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		return 0;
	}
	if (bpf_probe_read_user(s->g, G_READ, (void *)g)) {
		count(STAT_INTERVAL_LOST);
		goto out;
	}
	if (!state) {
		struct goroutine new = {};
		if (goroutines.update(&g, &new))
			count(STAT_GOROUTINE_TABLE_FULL);
	}
	/* A goroutine that has never run has no frame pointer yet (proc.go: newproc1 clears sched). If an interval was open,
	 * it belonged to the one that had this g before and ended while stopped (coro.go: coroexit). */
	if (!word(s, G_SCHED_BP)) {
		count(from ? STAT_FORGOTTEN : STAT_CREATED);
		goto out;
	}
	if (!from) {
		if (state) {
			if (c->phase == PHASE_TRACE)
				count(STAT_END_WHILE_RUNNING);
			goto out;
		}
		from = c->window_start_ns; /* off the CPU since before the window */
		in_progress = 1;
	}
	if (c->phase == PHASE_DRAIN && c->window_end_ns) {
		now = c->window_end_ns;
		in_progress = 1;
	}
	record(s, state, from, now, kind, in_progress);
out:
	__sync_lock_test_and_set(&s->busy, 0);
	return 0;
}

#if WITH_END_EXECUTE
/* runtime.execute: AX = the g that runs next. Sees every end but coroutine switches, and nothing else. */
int end_execute(struct pt_regs *ctx) { return end(ctx, ctx->ax, 0); }
#endif
#if WITH_END_GOGO
/* runtime.gogo at its final jmp: DX = the g that runs next. Sees coroutine switches too, and what is no end. */
int end_gogo(struct pt_regs *ctx) { return end(ctx, ctx->dx, 1); }
#endif

/* ---- the target's exec --------------------------------------------------------------------------------------------- */

/* Raw tracepoint sched_process_exec. */
int target_exec(void *ctx)
{
	u32 zero = 0;
	struct config *c = config.lookup(&zero);
	struct bpf_pidns_info ids = {};
	/* Our own PID namespace's numbers: the kernel's are others in a container. */
	if (bpf_get_ns_current_pid_tgid(PID_NAMESPACE_DEV, PID_NAMESPACE_INO, &ids, sizeof(ids)))
		return 0;
	if (c && ids.tgid == TARGET_PID) {
		c->phase = PHASE_OFF;
		c->window_end_ns = bpf_ktime_get_ns();
		c->execed = 1;
	}
	return 0;
}
