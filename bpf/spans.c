/* Requests: what becomes of the intervals that end inside one, and of all intervals for whoever follows a request's causes afterwards. */

/* The row of `intervals` that a key names, as one number (gotrace/kernel/rows.py: row_hash). */
static __always_inline u64 row_hash(struct interval_key *key)
{
	u64 hash = mix(0, key->stack);
	hash = mix(hash, key->kernel_stack);
	hash = mix(hash, key->waker);
	hash = mix(hash, key->object);
	hash = mix(hash, key->goid);
	hash = mix(hash, key->labels);
	hash = mix(hash, key->reason | (u64)key->kind << 32);
	return mix(hash, key->part | (u64)key->syscall << 32);
}

/* A new record of this CPU's ring, which is nobody's until it has its number, *number; NULL where there is no ring. */
static __always_inline volatile struct happening *new_record(u32 *number)
{
	u64 zero = 0;
	struct history_head *head = history_heads.lookup(NARROW(zero));
	if (!head)
		return NULL;
#if SWAPS && __clang_major__ >= 12
	u64 next = __sync_fetch_and_add(&head->next, 1);
#else
	u64 next = *(volatile u64 *)&head->next;
	*(volatile u64 *)&head->next = next + 1;
#endif
	u64 chunk = bpf_get_smp_processor_id() * HISTORY_CHUNKS + (next / HISTORY_RECORDS & (HISTORY_CHUNKS - 1));
	struct history *ring = history.lookup(NARROW(chunk));
	if (!ring)
		return NULL;
	volatile struct happening *record = &ring->of[next & (HISTORY_RECORDS - 1)];
	record->number = 0;
	*number = (u32)next + 1;
	return record;
}

/* Adds the part of an interval that stands in the scratch space to what one request has waited for. Its row names it; where there is no
 * room for another, the coarse one does, which has state and reason alone. */
static __always_inline void add_to_span(struct scratch *s, struct span *span)
{
	/* In map memory, read again each time: if the verifier knew the slot, or what the number of slots was compared with, it would follow
	 * all that comes after the loops once for each of their rounds. */
	volatile u32 *used = &span->used, *chosen = &s->span_slot;
	u64 row = s->part_row;
	*chosen = SPAN_WAITS;
#pragma clang loop unroll(disable)
	for (u32 slot = 0; slot < SPAN_WAITS; slot++) {
		if (slot < *used ? span->waits[slot].row == row : slot < SPAN_WAITS - SPAN_COARSE) {
			*chosen = slot;
			break;
		}
		if (slot >= *used)
			break;
	}
	if (*chosen >= SPAN_WAITS) {
		span->flags |= SPAN_OVERFLOWED;
		row = s->part_coarse;
#pragma clang loop unroll(disable)
		for (u32 slot = SPAN_WAITS - SPAN_COARSE; slot < SPAN_WAITS; slot++) {
			if (slot >= *used || span->waits[slot].row == row || slot == SPAN_WAITS - 1) {
				*chosen = slot;
				break;
			}
		}
	}
	u32 slot = *chosen & (SPAN_WAITS - 1);
	struct span_wait *wait = &span->waits[slot];
	if (slot >= *used) {
		*used = slot + 1;
		wait->ns = wait->count = 0;
		wait->row = slot == SPAN_WAITS - 1 ? 0 : row; /* the last: whatever it was */
	}
	wait->ns += s->part_ns;
	wait->count += s->part_number;
}

/* Likewise, for all requests that the goroutine of the interval serves, one in another. A panic that was recovered has ended those
 * whose frames are gone. `by_go`, a literal: it was no wait of a thread alone. */
static __always_inline void add_to_spans(struct scratch *s, u32 active, u32 by_go)
{
#pragma clang loop unroll(disable)
	for (u32 function = 0; function < SPAN_FUNCTIONS && function < SPANS; function++) {
		if (!(active >> function & 1))
			continue;
		s->span.g = s->pending.g;
		s->span.function = function;
		struct span *span = spans.lookup(&s->span);
		if (!span)
			continue;
		if (span->over_ns) {
			if (s->pending.depth < span->depth)
				continue;
			span->over_ns = 0;
		}
		if (G_LABELS && SPAN_HAS_LABELS && by_go)
			copy_labels(s, span);
		add_to_span(s, span);
	}
}

/* A part of an interval has ended that stands in the scratch space with its key. */
static __always_inline void note_part(struct scratch *s, struct goroutine *state, u32 by_go)
{
	volatile struct pending *p = &s->pending;
	struct interval_key *rough = &s->rough;
	u32 number = 0;
	rough->reason = s->key.reason;
	rough->kind = s->key.kind;
	rough->part = s->key.part;
	rough->syscall = s->key.syscall;
	s->part_number = s->key.part != PART_MAIN || !p->carried_ns; /* else it goes on with one that was counted */
	s->part_coarse = row_hash(rough);
	s->part_row = p->recorded ? row_hash(&s->key) : s->part_coarse;
	volatile struct happening *record = new_record(&number);
	if (record) {
		record->start_ns = s->part_at;
		record->duration_ns = s->part_ns;
		record->goid = p->goid;
		record->waker_goid = s->key.part == PART_MAIN ? p->waker_goid : 0;
		record->row = s->part_row;
		record->what = HAPPENED_INTERVAL | s->key.kind << 2 | (s->key.reason & 0xFF) << 10 | s->key.part << 18;
		record->number = number;
	}
	if (state->spans)
		add_to_spans(s, state->spans, by_go);
}

/* A panic has been recovered, or the goroutine goes: in what its requests have called, or in a function further out. That shows when
 * it is met next; until then they are taken for over. `ended`: it goes on with nothing; those that may be over were over before. */
static __always_inline void may_be_over(u64 g, struct goroutine *state, u64 now, u32 ended)
{
	u32 active = state->spans;
#pragma clang loop unroll(disable)
	for (u32 function = 0; function < SPAN_FUNCTIONS && function < SPANS; function++) {
		struct span_key key = {.g = g, .function = function};
		struct span *span = active >> function & 1 ? spans.lookup(&key) : NULL;
		if (span && !(ended && span->over_ns)) {
			span->over_ns = now;
			span->off_over_ns = state->off_ns;
		}
	}
}
