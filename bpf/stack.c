/* Walks goroutines' stacks by frame pointers. */

static __always_inline u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

/* The target of the call that returns to pc; 0 if there is no call, or none to a fixed address. */
static __always_inline u64 called_before(u64 pc)
{
	u8 code[5];
	if (bpf_probe_read_user(code, sizeof(code), (void *)(pc - 5)) || code[0] != 0xE8)
		return 0;
	s32 relative = code[1] | code[2] << 8 | code[3] << 16 | (u32)code[4] << 24;
	return pc + relative;
}

/* mcall is the only way to the scheduler except newstack, which morestack calls in a function's prologue. There sched.bp
 * is still the caller's frame, and the return address is the word at sched.sp. */
static __always_inline int called_mcall(u64 pc)
{
	return called_before(pc) == MCALL;
}

static __always_inline int called_morestack(u64 pc)
{
	u64 called = called_before(pc);
	return called && (called == MORESTACK || called == MORESTACK_NOCTXT);
}

static __always_inline int may_be_in_prologue(u32 kind)
{
	/* A mask: the verifier would remember the outcome of a comparison, and follow everything below once for each. */
	return (1 << KIND_GOSCHED | 1 << KIND_PREEMPT_PARK | 1 << KIND_BEFORE | 1 << KIND_SCHEDULE) >> (kind & 31) & 1;
}

/* Whether the next instruction is one by which a prologue makes its frame, or an epilogue drops it, while the frame pointer is the
 * caller's. The return address is then *size above the stack pointer. From Go 1.21: mov %rsp,%rbp. Before: mov
 * %rbp,n(%rsp), lea n(%rsp),%rbp; add $n,%rsp right before the return (cmd/internal/obj/x86: preprocess). */
static __always_inline int frame_is_being_made(u64 pc, u64 *size)
{
	u8 code[8];
	if (bpf_probe_read_user(code, sizeof(code), (void *)pc) || code[0] != 0x48)
		return 0;
	if (code[1] == 0x83 && code[4] == 0xC3) { /* ret */
		*size = code[3];
		return code[2] == 0xC4 || (code[2] == 0xEC && code[3] == 0x80); /* sub $-128,%rsp */
	}
	if (code[1] == 0x81) {
		*size = code[3] | code[4] << 8 | code[5] << 16 | (u64)(code[6] & 0x7F) << 24;
		return code[2] == 0xC4 && code[7] == 0xC3;
	}
	if (code[1] == 0x89 && code[2] == 0xE5) {
		*size = 8;
		return 1;
	}
	if ((code[1] != 0x89 && code[1] != 0x8D) || code[3] != 0x24)
		return 0;
	if (code[2] == 0x6C) {
		*size = (u64)code[4] + 8;
		return code[4] < 0x80;
	}
	if (code[2] == 0xAC) {
		*size = (code[4] | code[5] << 8 | code[6] << 16 | (u64)(code[7] & 0x7F) << 24) + 8;
		return code[7] < 0x80;
	}
	return 0;
}

/* Whose stack is walked, a literal: the compiler leaves out impossible cases. A thread that is stopped anywhere may be in a
 * function without a frame; the word at the stack pointer is then its caller. */
#define WALK_PARKED 0
#define WALK_WAKER 1
#define WALK_THREAD 2

/* A return address, or OUTSIDE_CODE if the word is not one. Without a branch: the verifier would follow both ways for each frame. */
static __always_inline u64 return_address(u64 word)
{
	u64 offset = word - TEXT_LO, size = TEXT_HI - TEXT_LO;
	u64 inside = (u64)((s64)((offset - size) & ~offset) >> 63); /* all bits, or none */
	return (word & inside) | (OUTSIDE_CODE & ~inside);
}

/* A walk up the frame pointers of one goroutine's stack, [lo, hi). */
struct walker {
	u64 fp;    /* where the next caller's frame pointer and return address lie */
	u64 below; /* frames ascend: nothing lies below */
	u64 last;  /* the program counter found last */
	u64 lo, hi;
};

/* Reads the stack from the first frame on: a kilobyte costs little more than a word. All values pass through map memory, which the
 * verifier does not track: if it knew them, it would walk the loop once for each case. */
static __always_inline void read_window(struct scratch *s, u64 fp, u64 lo, u64 hi)
{
	s->window_from = fp;
	s->window_lo = lo;
	s->window_hi = hi;
	s->window_bytes = 0;
	u64 from = s->window_from, end = s->window_hi;
	if (from < s->window_lo || from >= end)
		return;
	u64 bytes = end - from;
	if (bytes > WINDOW)
		bytes = WINDOW;
	if (!bpf_probe_read_user(s->window, bytes & (2 * WINDOW - 1), (void *)from))
		s->window_bytes = bytes; /* if not, a page of it may have been swapped out */
}

/* The frame pointer is not one. Two cases are known, both at the current point of the walk:
 * - C called back into Go: the saved frame pointer is C's, on another stack. On ours, after cgocallback's frame, are the
 *   program counter and the frames of the call into C (runtime/asm_amd64.s: cgocallback, asmcgocall);
 * - the collector moved the stack during an assist and the frame pointer still points into the old one (up to Go 1.20):
 *   step over the frame by its size.
 * Returns 1 if the walk continues at w->fp; the first case also sets *pc to the program counter that it found. */
static __always_inline int mend(struct walker *w, u64 *pc)
{
	if (CGOCALLBACK_FRAME && w->last - CGOCALLBACK_LO < CGOCALLBACK_HI - CGOCALLBACK_LO && (w->fp < w->lo || w->fp >= w->hi)) {
		u64 behind = w->below + CGOCALLBACK_FRAME + 8 + ASMCGOCALL_FRAME, cgocall = 0;
		if (behind + 8 <= w->hi && bpf_probe_read_user(&cgocall, 8, (void *)behind))
			return 0;
		if (cgocall - TEXT_LO >= TEXT_HI - TEXT_LO) {
			w->fp = 0; /* a thread of C: nothing is above */
			return 1;
		}
		*pc = cgocall;
		w->below = behind + 8;
		w->fp = behind + CGOCALL_FRAME;
		return 1;
	}
	if (w->last - ASSIST_LO < ASSIST_HI - ASSIST_LO) {
		w->fp = w->below + ASSIST_FRAME - 8;
		return w->fp >= w->below && w->fp + 16 <= w->hi;
	}
	return 0;
}

/* Fills `s->stack` and returns the stack's hash. A frame pointer outside the goroutine's stack, or one that does not ascend,
 * ends the walk, so a hostile chain has no cycles and reads nothing else. */
static __always_inline u64 walk(struct scratch *s, u64 pc, u64 sp, u64 fp, u64 lo, u64 hi, u32 kind, u32 whose)
{
	struct stack *value = &s->stack;
	struct walker w = {.fp = fp, .below = lo, .last = pc, .lo = lo, .hi = hi};
	u64 frame[2], hash = mix(0, pc), async = 0, span;
	u32 i = 1;

	u64 zero = 0, *strict = by_sizes.lookup(NARROW(zero));
	s->strict = strict ? *strict : 0;
	value->flags = 0;
	value->prologue_caller = 0;
	value->async_caller = 0;
	value->first = fp + 16 - sp;
	value->pcs[0] = pc;
	if (whose == WALK_PARKED && kind == KIND_CREATED) {
		/* It has not run yet: its first function, with goexit as the caller (runtime/sys_x86.go: gostartcall). */
		value->flags = STACK_EXACT;
		if (sp >= lo && sp + 8 <= hi && !bpf_probe_read_user(&value->pcs[1], 8, (void *)sp)) {
			value->pcs[1] = return_address(value->pcs[1]);
			i = 2;
			hash = mix(hash, value->pcs[1]);
		} else {
			value->flags |= STACK_UNREADABLE;
		}
		goto done;
	}
	if ((whose == WALK_PARKED && may_be_in_prologue(kind) && !called_mcall(pc)) ||
	    (whose == WALK_THREAD && kind == KIND_WAKER && called_morestack(pc))) {
		s->strayed = 1;
		if (sp >= lo && sp + 8 <= hi && !bpf_probe_read_user(&value->prologue_caller, 8, (void *)sp)) {
			value->prologue_caller = return_address(value->prologue_caller);
			value->flags |= STACK_IN_PROLOGUE;
			hash = mix(hash, value->prologue_caller);
			w.below = sp + 8;
			w.last = value->prologue_caller;
		} else {
			value->flags |= STACK_UNREADABLE;
		}
	}
	if (whose != WALK_PARKED && kind == KIND_WAKER && SWITCHED_AT && pc == SWITCHED_AT) {
		/* Switched to g0 through a function without a frame: its caller is the word at the saved stack pointer. */
		u64 caller = 0;
		if (sp >= lo && sp + 8 <= hi && !bpf_probe_read_user(&caller, 8, (void *)sp) && caller - TEXT_LO < TEXT_HI - TEXT_LO) {
			value->prologue_caller = caller;
			value->flags |= STACK_IN_PROLOGUE;
			hash = mix(hash, caller);
		}
	}
	if (whose == WALK_THREAD && kind == KIND_SYSCALL) {
		u64 caller = 0, at = sp, frame_size = 0, *leaf_size = NULL;
		if (s->strict & BY_LEAF_SIZES) {
			u64 key = LEAF_BLOCK | pc >> LEAF_BLOCK_BITS;
			leaf_size = frame_sizes.lookup(&key);
			if (!leaf_size) {
				key = LEAF_PC | pc;
				leaf_size = frame_sizes.lookup(&key);
			}
		}
		if (leaf_size || frame_is_being_made(pc, &frame_size)) {
			at += leaf_size ? *leaf_size : frame_size;
			value->flags |= STACK_IN_PROLOGUE;
		} else {
			value->flags |= STACK_LEAF_CALLER;
		}
		if (at >= lo && at + 8 <= hi && !bpf_probe_read_user(&caller, 8, (void *)at) && caller - TEXT_LO < TEXT_HI - TEXT_LO) {
			value->prologue_caller = caller;
			hash = mix(hash, caller);
		} else {
			value->flags &= ~(STACK_IN_PROLOGUE | STACK_LEAF_CALLER);
		}
		value->flags |= STACK_EXACT;
		/* Calls of duffzero and duffcopy make their frame below the stack pointer (cmd/internal/obj/x86: progedit). */
		w.below = sp - 16;
		w.last = 0; /* not a return address: no frame size is known from here */
		if (leaf_size && value->flags & STACK_IN_PROLOGUE) {
			/* The frame pointer may be anything; if the function has saved it, it is below the return address. */
			if (at > sp)
				w.fp = user_word(at - 8);
			w.below = at + 8;
			w.last = caller;
		}
	}
	if (whose == WALK_THREAD && kind == KIND_TRANSIT && sp) {
		/* In code that is not Go's; the word at sp tells from where it was called. */
		value->pcs[0] = pc;
		value->prologue_caller = user_word(sp);
		value->flags |= STACK_IN_PROLOGUE;
		hash = mix(hash, value->prologue_caller);
		w.below = sp + 8;
		w.last = value->prologue_caller;
	}
	if (whose != WALK_PARKED || !s->foreseen)
		read_window(s, w.fp, lo, hi);
	if (s->strict & BY_SIZES) {
		s->window_bytes = 0;
		s->strayed = 1;
	}
	/* While the chain ascends inside the window. All other cases are for the second loop: in a single loop each frame would
	 * double what the verifier has to follow. */
	for (; i < MAX_FRAMES; i++) {
		u64 at = w.fp - s->window_from, bytes = s->window_bytes;
		if (w.fp < w.below || at >= bytes || at + 16 > bytes)
			break;
		at &= WINDOW - 1;
		u64 next = *(u64 *)(s->window + at), caller = *(u64 *)(s->window + at + 8);
		if (!caller)
			goto done;
		caller = return_address(caller);
		w.below = w.fp + 16;
		if (whose != WALK_WAKER && i == ASYNC_AT)
			async = w.below;
		value->pcs[i] = caller;
		hash = mix(hash, caller);
		w.last = caller;
		w.fp = next;
	}
	if (whose == WALK_PARKED && w.fp)
		s->strayed = 1;
	for (; i < MAX_FRAMES; i++) {
		if (s->strict & BY_SIZES) {
			u64 last = w.last, *size = frame_sizes.lookup(&last);
			if (size)
				w.fp = w.below + *size - 8;
		}
		if (!w.fp)
			goto done;
		if (w.fp < w.below || w.fp + 16 > w.hi) {
			frame[1] = 0;
			if (!mend(&w, &frame[1]))
				goto broken;
			if (!w.fp)
				goto done;
			if (frame[1]) {
				frame[0] = w.fp;
				goto found;
			}
		}
		if (bpf_probe_read_user(frame, sizeof(frame), (void *)w.fp))
			goto broken;
		if (!frame[1])
			goto done;
		frame[1] = return_address(frame[1]);
		w.below = w.fp + 16;
found:
		/* asyncPreempt is always the leaf's caller: the next frame is the interrupted function's. */
		if (whose != WALK_WAKER && i == ASYNC_AT)
			async = w.below;
		value->pcs[i] = frame[1];
		hash = mix(hash, frame[1]);
		w.last = frame[1];
		w.fp = frame[0];
	}
	if (w.fp)
		value->flags |= STACK_TRUNCATED;
	goto done;
broken:
	value->flags |= STACK_UNREADABLE;
done:
	/* The signal struck at pcs[ASYNC_AT]; that function's stack pointer is above asyncPreempt's frame. If the function has no
	 * frame, the word there is its caller. */
	if (async && value->pcs[ASYNC_AT - 1] - ASYNC_LO < ASYNC_HI - ASYNC_LO) {
		u64 caller = 0;
		s->strayed = 1;
		/* Or further up, if the frame is being made or taken down: the frame pointer is then the caller's. */
		u64 size = 0;
		if (frame_is_being_made(value->pcs[ASYNC_AT], &size))
			async += size;
		if (async + 8 <= hi && !bpf_probe_read_user(&caller, 8, (void *)async) && caller - TEXT_LO < TEXT_HI - TEXT_LO) {
			value->async_caller = caller;
			hash = mix(hash, caller);
		}
	}
	value->depth = i;
	/* How far the walk got, from the stack pointer up. User space checks by it whether these are all the frames, so stacks that
	 * differ in this alone are different ones. */
	span = w.below - sp;
	value->span = sp - lo < hi - lo && (s64)span > 0 ? span : 0;
	return mix(hash, value->flags | (u64)value->span << 32);
}
