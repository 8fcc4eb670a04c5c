/* What a goroutine that parks waits for in Go (--objects): a channel, the channels of a select, the semaphore of a lock, a Cond. Read where
 * it parks, when the runtime's record of the wait (runtime2.go: sudog) is complete and locked. A record is believed only where it refers
 * back to the goroutine; a Cond has none, and is known by the lock that its goroutine holds as it parks. */

#define NOT_READ 1 /* in place of a number in `object`: it could not be read */
#define NO_ROOM 2  /* the table is full */
#define OF_SELECT (1ULL << 63) /* it is the number of a select's channels, no address */
#define MOST_CASES 16 /* of a select; if it has more, these tell */
#define SEARCHED 512 /* bytes of a frame of semacquire1; it takes less than half of that */
#define SEM_ROOTS 251 /* runtime/sema.go: semTabSize, and the size of a root */
#define SEM_STRIDE 64
#define COND_LOCK 24 /* sync.Cond: where the lock of its list of waiters is (runtime/sema.go: notifyList) */

/* Reads the sudog at that address into the scratch space; returns whether it is one of goroutine g. */
static __always_inline u32 read_sudog(struct scratch *s, u64 sudog, u64 g)
{
	return sudog && !bpf_probe_read_user(s->window, SUDOG_READ, (void *)sudog) && struct_word(s, 0) == g;
}

static __always_inline u64 channel_of(struct scratch *s, u64 g)
{
	u64 channel = read_sudog(s, user_word(g + G_WAITING), g) ? struct_word(s, SUDOG_C) : 0;
	return channel ? channel : NOT_READ;
}

/* A number for the set of a select's channels. The runtime has the cases in the order of the channels' addresses. */
static __always_inline u64 channels_of(struct scratch *s, u64 g)
{
	u64 hash = 0, next = user_word(g + G_WAITING);
	u32 cases = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MOST_CASES; i++) {
		if (!next)
			break;
		if (!read_sudog(s, next, g))
			return NOT_READ;
		u64 channel = struct_word(s, SUDOG_C);
		hash = mix(hash, channel);
		if (i < SELECT_CASES)
			s->waited.channels[i] = channel;
		next = struct_word(s, SUDOG_WAITLINK);
		cases++;
	}
	s->waited.cases = cases + (next != 0);
	return cases ? hash | OF_SELECT : NOT_READ;
}

/* The semaphore in the sudog at that address, if that is g's: the lock that g holds as it parks is that of the semaphore's root. */
static __always_inline u64 semaphore_in(struct scratch *s, u64 sudog, u64 g, u64 lock)
{
	u64 address = read_sudog(s, sudog, g) ? struct_word(s, SUDOG_ELEM) : 0;
	if (!address || SEMTABLE + (address >> 3) % SEM_ROOTS * SEM_STRIDE != lock)
		return 0;
	return address;
}

/* Searches the frame of semacquire1, the caller of gopark, for the sudog, and notes where it was. */
static __always_inline u64 search_frame(struct scratch *s, u64 *place, u64 g, u64 lock)
{
	if (bpf_probe_read_user(s->kernel, SEARCHED, (void *)(word(s, G_SCHED_BP) + 16)))
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SEARCHED / 8; i++) {
		u64 sudog = *(u64 *)(s->kernel + 8 * i);
		if (sudog & 7 || sudog < PAGE)
			continue;
		u64 address = semaphore_in(s, sudog, g, lock);
		if (address) {
			*place = 16 + 8 * i;
			return address;
		}
	}
	return 0;
}

static __always_inline u64 semaphore_of(struct scratch *s, u64 g, u64 lock)
{
	u64 zero = 0;
	u64 *place = sudog_place.lookup(NARROW(zero));
	if (!place)
		return NOT_READ;
	u64 address = *place ? semaphore_in(s, user_word(word(s, G_SCHED_BP) + *place), g, lock) : 0;
	if (!address)
		address = search_frame(s, place, g, lock);
	return address ? address : NOT_READ;
}

/* Keeps the number of objects bounded. Channels have a table of their own: there may be one for each call. */
static __always_inline u64 keep_waited(struct scratch *s, u64 object, u32 channels)
{
	if (object == NOT_READ)
		return object;
	if (channels)
		return waited_channels.lookup(&object) || !waited_channels.insert(&object, &s->waited) || waited_channels.lookup(&object) ? object : NO_ROOM;
	return waited_locks.lookup(&object) || !waited_locks.insert(&object, &s->waited) || waited_locks.lookup(&object) ? object : NO_ROOM;
}

/* At runtime.park_m. */
static __always_inline void note_waited(struct goroutine *state, u64 g)
{
	struct scratch *s = acquire_scratch();
	if (!s)
		return; /* counted with those whose object is not known */
	if (bpf_probe_read_user(s->g, G_READ, (void *)g))
		goto out;
	u64 reason = 1ULL << (s->g[G_WAITREASON] & 63);
	s->waited.cases = 0;
	if (reason & CHANNEL_REASONS) {
		state->object = keep_waited(s, channel_of(s, g), 1);
	} else if (reason & SELECT_REASONS) {
		state->object = keep_waited(s, channels_of(s, g), 1);
	} else if (reason & (SEMAPHORE_REASONS | COND_REASONS)) {
		u64 lock = user_word(word(s, G_M) + M_PARK_LOCK);
		state->object = keep_waited(s, reason & COND_REASONS ? lock > PAGE ? lock - COND_LOCK : NOT_READ : semaphore_of(s, g, lock), 0);
	}
out:
	release_scratch(s);
}
