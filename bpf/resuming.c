/* The stacks of goroutines that are being resumed, and the table of stacks. */

/* Keeps the stack in the scratch space under its hash. Returns the hash, 0 if there was no room for it. */
static __always_inline u64 keep_stack(struct scratch *s, u64 hash)
{
	if (stacks.lookup(&hash) || (MORE_ROWS && more_stacks.lookup(&hash)))
		return hash;
	if (!stacks.insert(&hash, &s->stack) || stacks.lookup(&hash))
		return hash;
	/* Twice: this map grows, and may be out of memory until an interrupt refills it (kernel/bpf/memalloc.c). */
	if (MORE_ROWS &&
	    (!more_stacks.insert(&hash, &s->stack) || !more_stacks.insert(&hash, &s->stack) || more_stacks.lookup(&hash)))
		return hash;
	count(STAT_STACK_TABLE_FULL);
	return 0;
}

/* A goroutine usually waits where it waited before. Reading the stack there first, and then the g, which confirms that it is there,
 * saves the third read by which walk_resuming checks that the stack was not moved. */
static __always_inline void foresee(struct scratch *s, struct goroutine *state)
{
	s->window_bytes = 0;
	/* Not if most intervals may be dropped before their stack is read (admit): it would then be an additional read. */
	if (!ONLY_GOID && !KIND_FILTER && !MIN_BLOCK_NS && state->flags & GOROUTINE_STEADY && !sample_period())
		read_window(s, state->last_fp, state->last_fp, state->last_fp + state->last_size);
}

static __always_inline void remember_place(struct scratch *s, struct goroutine *state)
{
	u64 fp = word(s, G_SCHED_BP);
	u32 size = word(s, G_STACK_HI) - fp;
	if (state->last_fp == fp && state->last_size == size) {
		state->flags |= GOROUTINE_STEADY;
		return;
	}
	state->flags &= ~GOROUTINE_STEADY;
	state->last_fp = fp;
	state->last_size = size;
}

#define GSCAN 0x1000
#define COLLECTOR_READS 64 /* some microseconds */

/* The collector may be moving the stack of a goroutine that is about to resume: for an instant its g has the new stack and the old
 * stack pointer (runtime/stack.go: copystack). Seen for goroutines before their first turn. */
static __always_inline void await_stack_pointer(struct scratch *s)
{
#pragma unroll
	for (u32 attempt = 0; attempt < 3; attempt++) {
		if (word(s, G_SCHED_SP) - word(s, G_STACK_LO) < word(s, G_STACK_HI) - word(s, G_STACK_LO))
			break;
		if (bpf_probe_read_user(s->g, G_READ, (void *)s->pending.g))
			break;
	}
}

/* While the collector holds a goroutine (runtime/runtime2.go: _Gscan), it may be adjusting the frames of a moved stack, one by one.
 * Go waits for that as well, in its next step (runtime/proc.go: execute, casgstatus). */
static __always_inline void await_collector(u64 g)
{
#pragma clang loop unroll(disable)
	for (u32 attempt = 0; attempt < COLLECTOR_READS; attempt++)
		if (!(user_word(g + G_ATOMICSTATUS) & GSCAN))
			break;
}

/* The stack of a goroutine that is being resumed, where the scheduler saved it. The collector may still hold the goroutine,
 * and move its stack (runtime/stack.go: shrinkstack): what was walked is then free memory, and the stack is walked again at
 * its new place. */
static __always_inline u64 walk_resuming(struct scratch *s, u32 kind)
{
	u64 hash = 0;
	await_stack_pointer(s);
	s->foreseen = s->window_bytes && s->window_from == word(s, G_SCHED_BP) && s->window_hi == word(s, G_STACK_HI);
#pragma clang loop unroll(disable)
	for (u32 attempt = 0; attempt < 2; attempt++) {
		s->strayed = 0;
		hash = walk(s, word(s, G_SCHED_PC), word(s, G_SCHED_SP), word(s, G_SCHED_BP), word(s, G_STACK_LO),
			    word(s, G_STACK_HI), kind, WALK_PARKED);
		if (s->foreseen && !s->strayed)
			break;
		s->foreseen = 0;
		if (attempt)
			break; /* a third reading would not be used */
		/* A chain that breaks off is also read again. */
		if (!(s->stack.flags & STACK_UNREADABLE) && user_word(s->pending.g + G_STACK_LO) == word(s, G_STACK_LO))
			break;
		if (s->stack.flags & STACK_UNREADABLE)
			await_collector(s->pending.g);
		if (bpf_probe_read_user(s->g, G_READ, (void *)s->pending.g))
			break;
	}
	if (s->stack.flags & STACK_TRUNCATED)
		count(STAT_STACK_TRUNCATED);
	if (s->stack.flags & STACK_UNREADABLE)
		count(STAT_STACK_UNREADABLE);
	return hash;
}
