/* Kernel stacks. The kernel unwinds one in about 150 ns per frame, and a busy thread sleeps at the same few places again and
 * again. We therefore remember where on the stack the return addresses of recent ones were. If all of them are in
 * place again, it is the same stack: the distance to the next return address depends on the one before alone (ORC
 * tables, Documentation/arch/x86/orc-unwinder.rst). */

#define THREAD_SIZE 16384 /* arch/x86/include/asm/page_64_types.h, without KASAN */
#define PATHS 64	  /* a power of two */
#define PATH_FRAMES 64	  /* likewise; deeper stacks are not remembered */
#define ORIG_AX_FROM_TOP 48 /* where it lies below the top of a thread's stack, among the registers */
/* How many program counters are our program's own, below where the walk begins: the program and bpf_trace_runN for a raw
 * tracepoint, the probed instruction for a kprobe. */
#define RAW_TRACEPOINT_FRAMES 2
#define KPROBE_FRAMES 1

struct path {
	u64 stack;  /* its hash */
	u32 frames; /* all but the outermost; 0: nothing is remembered here */
	u32 outermost; /* distance from the top: do_syscall_64 enlarges its frame at random (randomize_kstack_offset) */
	u64 outermost_pc;
	u32 at[PATH_FRAMES]; /* offsets from where the walk begins */
	u64 pcs[PATH_FRAMES];
};
/* Per CPU: nothing else writes during a comparison. */
BPF_TABLE("percpu_array", u32, struct path, paths, PATHS);

/* Reads the stack from `sp` up to the top of the thread's. If `sp` is on another stack (of softirqs and interrupts, on which
 * most arrivals come), reads the rest of its last page first; the last word there tells where the thread's own stack
 * continues (arch/x86/include/asm/irq_stack.h). Returns the number of bytes, 0 if the layout differs. */
static __always_inline u64 read_kernel_stack(struct scratch *s, u64 sp)
{
	/* Through map memory, like everything that the verifier should not track. */
	s->kernel_from = sp;
	s->kernel_low = kernel_word(bpf_get_current_task() + K_TASK_STACK);
	u64 from = s->kernel_from, low = s->kernel_low, first = 0;
	if (from & 7)
		return 0;
	if (from - low >= THREAD_SIZE) {
		first = PAGE - (from & (PAGE - 1));
		if (bpf_probe_read_kernel(s->kernel, first, (void *)from))
			return 0;
		s->kernel_from = *(u64 *)(s->kernel + ((first - 8) & (PAGE - 1)));
		from = s->kernel_from;
		if (from - low >= THREAD_SIZE || from & 7)
			return 0;
	}
	s->kernel_bytes = low + THREAD_SIZE - from;
	u64 rest = s->kernel_bytes;
	if (rest >= PAGE || bpf_probe_read_kernel(s->kernel + first, rest & (PAGE - 1), (void *)from))
		return 0;
	s->kernel_bytes = first + rest;
	return first + rest;
}

static __always_inline u64 kernel_stack_word(struct scratch *s, u64 offset)
{
	return *(u64 *)(s->kernel + (offset & (2 * PAGE - 1)));
}

static __always_inline int is_path(struct scratch *s, struct path *p)
{
	u64 different = kernel_stack_word(s, s->kernel_bytes - p->outermost) ^ p->outermost_pc;
	if (!p->frames || different)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_FRAMES; i++) {
		/* Read each time: otherwise the compiler counts down from the lesser of the two, and older verifiers see no bound. */
		if (i >= *(volatile u32 *)&p->frames)
			break;
		different |= kernel_stack_word(s, p->at[i]) ^ p->pcs[i];
	}
	return !different;
}

/* Remembers where the program counters in s->stack are. */
static __always_inline void learn_path(struct scratch *s, struct path *p, u64 hash, u32 own_frames)
{
	u32 depth = s->stack.depth;
	p->frames = 0;
	if (depth < own_frames + 2 || depth > own_frames + PATH_FRAMES)
		return;
	s->frame = own_frames;
	/* Without branches: each would double what the verifier has to follow. */
#pragma clang loop unroll(disable)
	for (u32 at = 0; at < 2 * PAGE; at += 8) {
		if (at >= s->kernel_bytes)
			break;
		u64 frame = s->frame;
		u64 different = kernel_stack_word(s, at) ^ s->stack.pcs[frame & (MAX_FRAMES - 1)];
		p->at[(frame - own_frames) & (PATH_FRAMES - 1)] = at;
		u64 same = ~(different | -different) >> 63; /* 1 if nothing differs */
		u64 wanted = (frame - depth) >> 63; /* 1 if not all are found */
		s->frame = frame + (same & wanted);
	}
	if (s->frame != depth)
		return;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_FRAMES; i++)
		p->pcs[i] = s->stack.pcs[(i + own_frames) & (MAX_FRAMES - 1)];
	u32 last = (depth - own_frames - 1) & (PATH_FRAMES - 1);
	p->outermost = s->kernel_bytes - p->at[last];
	p->outermost_pc = p->pcs[last];
	p->stack = hash;
	p->frames = last;
}

/* Keeps the kernel's stack in `stacks`; returns its hash, 0 if it can't be had. The walk begins at `sp`, and `own_frames`
 * are below. Overwrites the stack in the scratch space. */
static __always_inline u64 keep_kernel_stack(void *ctx, struct scratch *s, u64 sp, u32 own_frames)
{
	u64 hash = 0, bytes = read_kernel_stack(s, sp);
	struct path *p = NULL;
	if (bytes) {
		/* Two places for stacks that are equally deep on the interrupt stack and come from the same system call. */
		u64 syscall = (u32)kernel_stack_word(s, bytes - ORIG_AX_FROM_TOP), place = (bytes - (s->kernel_low + THREAD_SIZE - s->kernel_from)) >> 3;
		place = (place + 2 * syscall) & (PATHS - 2);
#pragma clang loop unroll(disable)
		for (u32 way = 0; way < 2; way++) {
			u64 index = place + way;
			p = paths.lookup(NARROW(index));
			if (p && is_path(s, p))
				return p->stack;
		}
		place += bpf_get_prandom_u32() & 1;
		p = paths.lookup(NARROW(place));
	}
	long size = bpf_get_stack(ctx, s->stack.pcs, sizeof(s->stack.pcs), 0);
	if (size <= 0) {
		count(STAT_KERNEL_STACK_LOST);
		return 0;
	}
	s->stack.flags = STACK_KERNEL;
	s->stack.depth = size / 8;
	s->stack.prologue_caller = s->stack.async_caller = 0;
	s->stack.span = s->stack.first = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_FRAMES; i++) {
		if (i >= *(volatile u32 *)&s->stack.depth) /* as in is_path */
			break;
		hash = mix(hash, s->stack.pcs[i]);
	}
	hash = mix(hash, STACK_KERNEL);
	if (keep_stack(s, hash) && p && !(bpf_get_prandom_u32() & 3)) /* seldom, for when more stacks alternate than there is room for */
		learn_path(s, p, hash, own_frames);
	return hash;
}
