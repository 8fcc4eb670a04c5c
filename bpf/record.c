/* Sums up closed intervals. */

/* gotrace/common/histogram.py: bucket_of. */
static __always_inline u32 bucket_of(u64 value)
{
	if (value < SUBBUCKETS)
		return value;
	/* The number of the highest bit, without branches: each would double what the verifier has to follow. */
	u64 bits = value;
	bits |= bits >> 1;
	bits |= bits >> 2;
	bits |= bits >> 4;
	bits |= bits >> 8;
	bits |= bits >> 16;
	bits |= bits >> 32;
	bits -= bits >> 1 & 0x5555555555555555ULL;
	bits = (bits & 0x3333333333333333ULL) + (bits >> 2 & 0x3333333333333333ULL);
	bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0FULL;
	u32 exponent = (bits * 0x0101010101010101ULL >> 56) - 1;
	if (exponent >= MAX_BITS)
		return BUCKETS - 1;
	return (exponent - SUBBITS + 1) * SUBBUCKETS + ((value >> (exponent - SUBBITS)) & (SUBBUCKETS - 1));
}

/* Returns the old value; the new one is `new` if the old one was `expected`. */
static __always_inline u64 compare_and_swap(u64 *where, u64 expected, u64 new)
{
#if SWAPS && __clang_major__ >= 12
	return __sync_val_compare_and_swap(where, expected, new);
#else
	/* The compiler (Ubuntu 22.04's) or the kernel (before 5.12) lacks the instruction. If another CPU comes between these two
	 * lines, its larger value may be overwritten; gotrace/kernel/rows.py sees that from the histogram. */
	u64 found = *(volatile u64 *)where;
	if (found == expected)
		*(volatile u64 *)where = new;
	return found;
#endif
}

/* Two tries: if another CPU wins twice in a row, it has written maxima of its own. */
static __always_inline void raise(u64 *maximum, u64 to)
{
	u64 max = *maximum;
#pragma unroll
	for (u32 attempt = 0; attempt < 2; attempt++) {
		if (to <= max)
			break;
		u64 found = compare_and_swap(maximum, max, to);
		if (found == max)
			break;
		max = found;
	}
}

static __always_inline u64 square_of(u64 duration)
{
	u64 units = duration >> 8;
	if (units >> 32)
		units = 0xFFFFFFFF;
	return units * units;
}

static __always_inline void add_to_bucket(struct interval_value *value, u64 bucket, u32 number)
{
	asm volatile("" : "+r"(bucket)); /* otherwise the compiler checks a different number than it uses */
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&value->histogram[bucket], number);
}

/* A wait that has been counted with `carried` continues for `duration`. */
static __always_inline void prolong(struct interval_value *value, u64 carried, u64 duration, u32 in_progress)
{
	u64 whole = carried + duration, before = square_of(carried), after = square_of(whole);
	__sync_fetch_and_add(&value->total_ns, duration);
	/* One half may become smaller than it was; their combined value does not. */
	__sync_fetch_and_add(&value->squares_low, (after & 0xFFFFFFFF) - (before & 0xFFFFFFFF));
	__sync_fetch_and_add(&value->squares_high, (after >> 32) - (before >> 32));
	if (in_progress)
		__sync_fetch_and_add(&value->in_progress, 1);
	add_to_bucket(value, bucket_of(whole), 1);
	add_to_bucket(value, bucket_of(carried), (u32)-1);
	raise(&value->max_ns, whole);
}

static __always_inline u64 add(struct interval_value *value, u64 duration, u64 weight, u32 in_progress, u32 bucket)
{
	u64 square = square_of(duration);
	__sync_fetch_and_add(&value->count, weight);
	__sync_fetch_and_add(&value->total_ns, duration * weight);
	__sync_fetch_and_add(&value->squares_low, (square & 0xFFFFFFFF) * weight);
	if (square >> 32) /* of an interval of 17 ms or more */
		__sync_fetch_and_add(&value->squares_high, (square >> 32) * weight);
	if (in_progress)
		__sync_fetch_and_add(&value->in_progress, weight);
	if (weight > 1) {
		/* Kept by chance, for `weight` of its kind: an unbiased estimate of what that adds to the variance of the total is
		 * duration * duration * weight * (weight - 1). */
		u64 share = duration * weight >> 8;
		__sync_fetch_and_add(&value->variance, share * share - share * share / weight);
	}
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&value->histogram[bucket], (u32)weight);
	raise(&value->max_ns, duration);
	return 0;
}

/* Whether an interval passes the user's filters; sets its weight. */
static __always_inline int admit(struct scratch *s)
{
	volatile struct pending *p = &s->pending;
	u64 duration = 0, weight = 1;
	u32 kind = p->kind;

	for (u32 part = 0; part < PARTS; part++)
		duration += p->part_ns[part];
	if (p->carried_ns) {
		p->weight = 1; /* it was admitted when it began */
		return 1;
	}
	if (ONLY_GOID && p->goid != ONLY_GOID)
		goto filtered;
	if (KIND_FILTER && (!((KIND_MASK >> (kind & 31)) & 1) || (kind == KIND_PARK && !((REASON_MASK >> (p->reason & 63)) & 1))))
		goto filtered;
	if (duration < MIN_BLOCK_NS)
		goto filtered;
	u64 period = sample_period();
	if (period && duration < period) {
		/* Kept with probability duration / period, with the inverse as weight; the weight's fraction is rounded up
		 * with a probability equal to it, so counts and totals are unbiased. */
		u64 chance = (u64)bpf_get_prandom_u32() * period >> 32;
		if (chance >= duration) {
			count(STAT_SAMPLED_OUT);
			return 0;
		}
		weight = period / duration;
		u64 fraction = ((period % duration) << 16) / duration;
		if ((bpf_get_prandom_u32() & 0xFFFF) < fraction)
			weight++;
	}
	p->weight = weight;
	count(STAT_INTERVALS);
	return 1;
filtered:
	count(STAT_FILTERED);
	return 0;
}

/* Counts each goroutine once per stack, whatever woke it, and whatever it waited for unless objects are told apart. */
static __always_inline void add_member(struct scratch *s, struct goroutine *state, struct interval_key *key, u64 goid)
{
	struct member_key *member = &s->member;
	member->goid = goid;
	member->key = mix(mix(mix(key->stack, key->reason), key->kind), key->labels);
	if (OBJECTS)
		member->key = mix(member->key, key->object);
	u64 identity = mix(member->key, goid), one = 1;
	if (state->last_key == identity)
		return;
	state->last_key = identity;
	if (!members.lookup(member) && members.insert(member, &one) && !members.lookup(member))
		count(STAT_GOROUTINE_SET_FULL);
}

/* The row of `key`, a new one if there is none; NULL if there is no room, which is counted. */
static __always_inline struct interval_value *interval_row(struct scratch *s, struct interval_key *key)
{
	struct interval_value *value = intervals.lookup(key);
	if (value)
		return value;
	if (MORE_ROWS && (value = more_intervals.lookup(key)))
		return value;
	intervals.insert(key, &s->zero);
	value = intervals.lookup(key);
	if (!value && MORE_ROWS) {
		/* Twice, as in keep_stack. */
		if (more_intervals.insert(key, &s->zero))
			more_intervals.insert(key, &s->zero);
		value = more_intervals.lookup(key);
	}
	if (!value)
		count(STAT_STACK_TABLE_FULL);
	return value;
}

/* Adds the parts of the interval in the scratch space to their rows. `may_continue`, a literal: it can be the rest of a wait. Of one that is
 * not recorded, as its filters or chance would have it, only requests are told: by state and reason. */
static __always_inline void commit(struct scratch *s, struct goroutine *state, u32 may_continue)
{
	volatile struct pending *p = &s->pending;
	s->part_at = p->from;
	s->part_ns = 0;
#pragma clang loop unroll(disable)
	for (u32 part = 0; part < PARTS; part++) {
		u64 duration = p->part_ns[part];
		struct interval_key *key = &s->key;
		if (part && !duration)
			continue;
		s->part_at += s->part_ns;
		s->part_ns = part == PART_MAIN ? p->piece_ns : duration;
		key->stack = p->stack;
		key->kind = p->kind;
		key->reason = p->reason;
		key->part = part == PART_RUNQUEUE ? p->last_part : part;
		key->syscall = p->syscall;
		key->goid = PER_GOROUTINE ? p->goid : 0;
		key->labels = p->labels;
		key->object = part <= PART_NETPOLL ? p->object : 0;
		key->kernel_stack = part == PART_MAIN ? p->kernel_stack : 0;
		key->waker = part == PART_MAIN || part == PART_RUNNABLE ? p->waker : 0;
		if (FOLLOWED) {
			note_part(s, state, !may_continue);
			if (!p->recorded)
				continue;
		}
		struct interval_value *value = interval_row(s, key);
		if (!value)
			return;
		if (may_continue && part == PART_MAIN && p->carried_ns)
			prolong(value, p->carried_ns, duration, p->in_progress);
		else
			add(value, duration, p->weight, p->in_progress, bucket_of(duration));
		if (p->stopped_ns[part])
			__sync_fetch_and_add(&value->stopped_ns, p->stopped_ns[part] * p->weight);
		if (p->halted_ns[part])
			__sync_fetch_and_add(&value->halted_ns, p->halted_ns[part] * p->weight);
		if (part == PART_MAIN) {
			add_member(s, state, key, p->goid);
			if (p->late_ns)
				__sync_fetch_and_add(&value->late_ns, p->late_ns * p->weight);
			if (LEAN && p->margin_ns)
				__sync_fetch_and_add(&value->margin_ns, p->margin_ns * p->weight);
			if (p->long_run_ns) {
				__sync_fetch_and_add(&value->long_runs, p->weight);
				raise(&value->long_run_max_ns, p->long_run_ns);
			}
		}
		u64 event_ns = may_continue && !part ? p->event_ns : duration;
		if (STREAM && event_ns >= STREAM_NS) {
			struct event *event = &s->event;
			event->start_ns = may_continue && !part ? p->event_from : s->part_at;
			event->duration_ns = event_ns;
			event->flags = may_continue && !part ? p->event_flags : 0;
			event->goid = p->goid;
			event->waker_goid = p->waker_goid;
			event->key = *key;
			event->tid = p->tid;
			/* No wake-up: it would cost more than the rest of the probe, and the reader comes often enough
			 * (gotrace/kernel/tracer.py: take_events). */
			if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
				count(STAT_RING_FULL);
		}
	}
}
