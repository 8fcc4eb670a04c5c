/* Where requests begin and end: at the entry of a function that serves them and where it returns. One program for all such places. */

/* The row of completed requests, a new one if there is none; NULL if there is no room, which is counted. */
static __always_inline struct span_row *span_row(struct span_row_key *key)
{
	struct span_row blank = {}, *row = span_rows.lookup(key);
	if (row)
		return row;
	span_rows.insert(key, &blank);
	row = span_rows.lookup(key);
	if (!row)
		count(STAT_SPAN_TABLE_FULL);
	return row;
}

/* Copies a Go string of the target that lies there. */
static __always_inline u32 copy_string(u8 *to, u32 room, u64 at)
{
	u64 string[2] = {};
	if (bpf_probe_read_user(string, sizeof(string), (void *)at))
		return 0;
	return copy_bytes(to, room, string[0], string[1]);
}

/* What was requested, where that is known and it took long enough. */
static __always_inline void tell(struct span *span, u64 function, u64 duration)
{
	struct span_function *how = span_functions.lookup(NARROW(function));
	u64 zero = 0;
	u32 named = how && span->request && how->path != ~0ULL;
	if (!how || (!named && !span->labels_at) || duration < how->slow_ns)
		return;
	struct told_key key = {.goid = span->goid, .start_ns = span->start_ns};
	struct told *told_of, *blank = blank_told.lookup(NARROW(zero));
	if (!blank || told.insert(&key, blank))
		return;
	told_of = told.lookup(&key);
	if (!told_of)
		return;
	if (G_LABELS && SPAN_HAS_LABELS && span->labels_at)
		__builtin_memcpy(told_of->labels, span->labels, sizeof(told_of->labels));
	if (!named)
		return;
	if (how->method != ~0ULL)
		told_of->method_bytes = copy_string(told_of->method, TOLD_METHOD, span->request + how->method);
	u64 url = how->url != ~0ULL ? user_word(span->request + how->url) : span->request;
	if (url)
		told_of->path_bytes = copy_string(told_of->path, TOLD_PATH, url + how->path);
}

/* The request is over: its waits go to the rows of its duration. `off_ns`: how long its goroutine had been off the CPU in all, then. */
static __always_inline void finish_span(struct span *span, u64 function, u64 end, u64 off_ns)
{
	u64 duration = end > span->start_ns ? end - span->start_ns : 0, off = off_ns - span->off_ns;
	struct span_row_key key = {.function = function, .bucket = bucket_of(duration)};
	if (span->flags & SPAN_LATE) {
		span->start_ns = 0;
		return;
	}
	count(STAT_SPAN_ENDED);
	struct span_row *row = span_row(&key);
	if (row) {
		__sync_fetch_and_add(&row->count, 1);
		__sync_fetch_and_add(&row->total_ns, duration);
		if (off < duration)
			__sync_fetch_and_add(&row->cpu_ns, duration - off);
		raise(&row->max_ns, duration);
	}
#pragma clang loop unroll(disable)
	for (u32 slot = 0; slot < SPAN_WAITS; slot++) {
		if (slot >= *(volatile u32 *)&span->used) /* volatile: otherwise the compiler counts down, and Linux 6.1 knows no bound */
			break;
		struct span_wait *wait = &span->waits[slot];
		key.row = wait->row ? wait->row : ~0ULL;
		row = span_row(&key);
		if (row) {
			__sync_fetch_and_add(&row->count, wait->count);
			__sync_fetch_and_add(&row->total_ns, wait->ns);
		}
	}
	if (span->flags & SPAN_OVERFLOWED)
		count(STAT_SPAN_WAITS_FULL);
	u32 number = 0;
	volatile struct happening *record = new_record(&number);
	if (record) {
		record->start_ns = span->start_ns;
		record->duration_ns = duration;
		record->goid = span->goid;
		record->waker_goid = span->request;
		record->row = key.bucket;
		record->what = HAPPENED_REQUEST | function << 2;
		record->number = number;
	}
	tell(span, function, duration);
	span->start_ns = 0;
}

/* A request has ended that began before the window, or while its probes were away: it is in no sum. That it was there is recorded, with
 * when it ended as its start. */
static __always_inline void note_begun_before(u64 function, u64 goid, u64 now)
{
	struct span_row_key key = {.function = function, .bucket = SPAN_BEGUN_BEFORE};
	struct span_row *row = span_row(&key);
	u32 number = 0;
	if (row)
		__sync_fetch_and_add(&row->count, 1);
	volatile struct happening *record = new_record(&number);
	if (record) {
		record->start_ns = now;
		record->duration_ns = record->waker_goid = 0;
		record->goid = goid;
		record->row = SPAN_BEGUN_BEFORE;
		record->what = HAPPENED_REQUEST | function << 2;
		record->number = number;
	}
}

/* The place of goroutine g's request, made if it is not there yet; NULL if there is no room, which is counted. */
static __always_inline struct span *place_of(struct span_key *key)
{
	u64 zero = 0;
	struct span *span = spans.lookup(key), *blank;
	if (span)
		return span;
	blank = blank_span.lookup(NARROW(zero));
	if (!blank)
		return NULL;
	spans.insert(key, blank);
	span = spans.lookup(key);
	if (!span)
		count(STAT_SPAN_TABLE_FULL);
	return span;
}

/* The row of a goroutine that runs; a new one if no program has met it yet. */
static __always_inline struct goroutine *row_of_running(struct config *c, u64 g, u64 now)
{
	struct goroutine *state = goroutines.lookup(&g);
	if (state)
		return state;
	struct goroutine new = {.run_since = now};
	new.run_ns = ran_unseen(c, now, current_thread(), TICK_NS);
	note_unseen(&new, c, current_thread(), g);
	state = row_of(g, &new);
	if (!state)
		return NULL;
	count_ns(STAT_RUN_NS, new.run_ns);
	if (BY_THREAD)
		resumed_on_thread(g);
	if (LEAN)
		state->thread = bpf_get_current_pid_tgid();
	return state;
}

/* Whether a request that begins now is of interest. */
static __always_inline u32 wants_spans(u64 now)
{
	u64 zero = 0;
	struct knobs *k = GOVERNED ? knobs.lookup(NARROW(zero)) : NULL;
	return !k || !k->span_until_ns || now < k->span_until_ns;
}

/* Whether a grpc.MethodDesc or StreamDesc lies there: its first field is a name that begins with a capital. */
static __always_inline int names_method(u64 at)
{
	u64 string[2] = {};
	u8 first = 0;
	if (bpf_probe_read_user(string, sizeof(string), (void *)at) || !string[1] || string[1] > TOLD_PATH)
		return 0;
	return !bpf_probe_read_user(&first, 1, (void *)string[0]) && first >= 'A' && first <= 'Z';
}

/* Any place of a span, on the goroutine itself (R14 = g) but in runtime.recovery (on g0, AX = g). */
int at_span(struct pt_regs *ctx)
{
	/* At once: the verifier allows no choice of one of them later on. */
	volatile u64 ax = ctx->ax, bx = ctx->bx, cx = ctx->cx, di = ctx->di, r8 = ctx->r8, r10 = ctx->r10;
	u64 now = bpf_ktime_get_ns(), at = ctx->ip;
	struct config *c = configuration(now);
	struct span_site *site = span_sites.lookup(&at);
	if (!c || !site)
		return 0;
	count(STAT_HITS_SPAN);
	learn_process(c);
	if (draining(c, now))
		return 0; /* what has not ended with the window is in progress */
	u32 kind = site->kind;
	u64 g = ctx->r14;
	if (kind == SPAN_RECOVERY || kind == SPAN_GOEXIT) {
		u64 left = kind == SPAN_RECOVERY ? ax : g;
		struct goroutine *known = goroutines.lookup(&left);
		if (known && known->spans)
			may_be_over(left, known, now, 0);
		return 0;
	}
	u64 depth = user_word(g + G_STACK_HI) - (ctx->sp + site->sp_above), goid = user_word(g + G_GOID);
	if (ONLY_GOID && goid != ONLY_GOID)
		return 0;
	struct span_key key = {.g = g, .function = site->function & (SPAN_FUNCTIONS - 1)};
	u32 bit = 1u << key.function;
	struct goroutine *state = row_of_running(c, g, now);
	struct span *span = kind == SPAN_BEGIN ? place_of(&key) : spans.lookup(&key);
	if (!state)
		return 0;
	u64 active = span && span->start_ns && span->goid == goid && state->spans & bit;
	if (kind == SPAN_END) {
		if (!active)
			note_begun_before(key.function, goid, now);
		if (!active || depth != span->depth)
			return 0; /* nested: the outermost goes on */
		state->spans &= ~bit;
		finish_span(span, key.function, now, state->off_ns);
		return 0;
	}
	if (!span || (active && depth > span->depth))
		return 0; /* nested: of the outermost */
	if (span->start_ns && span->over_ns)
		finish_span(span, key.function, span->over_ns, span->off_over_ns); /* left by a panic */
	else if (span->start_ns && !(span->flags & SPAN_LATE)) {
		count(STAT_SPAN_END_UNSEEN);
		count(STAT_SPAN_ENDED);
	}
	span->goid = goid;
	span->depth = depth;
	span->off_ns = state->off_ns;
	span->over_ns = span->labels_at = span->used = 0;
	span->flags = wants_spans(now) ? 0 : SPAN_LATE;
	if (!span->flags)
		count(STAT_SPAN_BEGUN);
	u64 argument = site->argument;
	span->request = argument == SPAN_ARGUMENT_DI ? di : argument == SPAN_ARGUMENT_BX ? bx : argument == SPAN_ARGUMENT_CX ? cx :
			argument != SPAN_ARGUMENT_METHOD ? 0 : names_method(r8) ? r8 : r10;
	span->start_ns = now;
	state->spans |= bit;
	return 0;
}
