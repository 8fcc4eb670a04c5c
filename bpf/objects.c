/* What a file descriptor is, read from the kernel's own structs; the offsets (K_*) are from its BTF. */

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0xF000
#define S_IFSOCK 0xC000
#define AF_UNIX 1
#define TCP_LISTEN 10
#define SOCK_STREAM 1
/* runtime/netpoll_epoll.go: EPOLLIN, RDHUP, HUP and ERR wake the reader, EPOLLOUT, HUP and ERR the writer. */
#define POLL_FOR_READER 0x2019
#define POLL_FOR_WRITER 0x001C

/* Reads the first `bytes` of a kernel struct into the scratch space: many words cost little more than one. */
static __always_inline void read_struct(struct scratch *s, u64 address, u64 bytes)
{
	bpf_probe_read_kernel(s->window, bytes, (void *)address); /* zeros if it fails */
}

/* A word of what read_struct has read. */
static __always_inline u64 struct_word(struct scratch *s, u64 offset)
{
	return *(u64 *)(s->window + offset);
}

/* The struct file of the current task's descriptor, 0 if there is none. */
static __always_inline u64 file_of(struct scratch *s, u64 task, u32 fd)
{
	read_struct(s, kernel_word(kernel_word(task + K_TASK_FILES) + K_FILES_FDT), K_FDTABLE_READ);
	u32 size = struct_word(s, K_FDTABLE_MAX_FDS);
	if (fd >= size)
		return 0;
	return kernel_word(struct_word(s, K_FDTABLE_FD) + 8 * (u64)fd);
}

/* The path that a unix socket, or else its peer, is bound to: a client's socket has none, its server's has one.
 * Kept in `unix_paths`, since it disappears with the socket; returns its key there, 0 if there is none. */
static __always_inline u64 unix_path(u64 sk)
{
	u64 address, hash;
	struct scratch *s;
	u32 length;

	if (!K_UNIX_ADDR)
		return 0;
	address = kernel_word(sk + K_UNIX_ADDR);
	if (!address) {
		sk = kernel_word(sk + K_UNIX_PEER);
		address = sk ? kernel_word(sk + K_UNIX_ADDR) : 0;
	}
	length = address ? (u32)kernel_word(address + K_UNIX_ADDRESS_LEN) : 0;
	if (length <= 2 || length > 2 + UNIX_PATH_BYTES)
		return 0;
	length = (length - 2) & (UNIX_PATH_BYTES - 1);
	s = acquire_scratch();
	if (!s)
		return 0;
	volatile u64 *words = (u64 *)s->path;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < UNIX_PATH_BYTES / 8; i++)
		words[i] = 0;
	/* sun_path, after sun_family */
	bpf_probe_read_kernel(s->path, length, (void *)(address + K_UNIX_ADDRESS_NAME + 2));
	hash = mix(0, length);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < UNIX_PATH_BYTES / 8; i++)
		hash = mix(hash, words[i]);
	if (!unix_paths.lookup(&hash) && unix_paths.update(&hash, (struct unix_path *)s->path))
		hash = 0;
	release_scratch(s);
	return hash;
}

/* Makes one object of all connections that differ in their client's port alone. A client's end has a port that connect has chosen
 * (net/ipv4/inet_hashtables.c: __inet_hash_connect sets fastreuse to -1); where that is not known, it is the larger of the two. */
static __always_inline void fold_ports(struct object *o, u64 sk)
{
	u64 bucket = K_SK_BIND && o->type == SOCK_STREAM ? kernel_word(sk + K_SK_BIND) : 0;
	u16 peer = o->peer_port << 8 | o->peer_port >> 8;

	if (o->state == TCP_LISTEN || !peer)
		return;
	if (bucket ? kernel_word(bucket + K_BIND_REUSE) & 0x80 : peer <= o->local_port)
		o->local_port = 0;
	else
		o->peer_port = 0;
	o->state = OBJECT_FOLDED;
	o->ino = 0;
	o->fd = 0;
}

/* Describes a file in `objects` and returns its key there; `known` is a key that is there already, 0 if none is known. *socket is its
 * struct sock, 0 if it is not a socket. Reads everything each time: a descriptor, or a struct file, may have been reused. */
static __always_inline u64 object_of(struct scratch *s, u64 file, u32 fd, u64 known, u64 *socket)
{
	struct object o = {.fd = fd};
	u64 private, sb, hash = 0;

	*socket = 0;
	if (!file)
		return 0;
	read_struct(s, file, K_FILE_READ);
	private = struct_word(s, K_FILE_PRIVATE);
	read_struct(s, struct_word(s, K_FILE_INODE), K_INODE_READ);
	o.mode = (u16)struct_word(s, K_INODE_MODE);
	o.ino = struct_word(s, K_INODE_INO);
	sb = struct_word(s, K_INODE_SB);
	o.dev = kernel_word(sb + K_SB_DEV);
	if ((o.mode & S_IFMT) == S_IFSOCK) {
		u64 sk = kernel_word(private + K_SOCKET_SK);
		*socket = sk;
		o.type = kernel_word(sk + K_SK_TYPE);
		read_struct(s, sk, K_SK_READ);
		o.family = struct_word(s, K_SK_FAMILY);
		o.state = (u8)struct_word(s, K_SK_STATE);
		if (o.family == AF_INET || o.family == AF_INET6) {
			o.local_port = struct_word(s, K_SK_NUM);
			o.peer_port = struct_word(s, K_SK_DPORT);
		}
		if (o.family == AF_INET) {
			*(u32 *)o.local = struct_word(s, K_SK_RCV_SADDR);
			*(u32 *)o.peer = struct_word(s, K_SK_DADDR);
		} else if (o.family == AF_INET6) {
			*(u64 *)o.local = struct_word(s, K_SK_V6_RCV_SADDR);
			*(u64 *)(o.local + 8) = struct_word(s, K_SK_V6_RCV_SADDR + 8);
			*(u64 *)o.peer = struct_word(s, K_SK_V6_DADDR);
			*(u64 *)(o.peer + 8) = struct_word(s, K_SK_V6_DADDR + 8);
		} else if (o.family == AF_UNIX) {
			*(u64 *)o.peer = unix_path(sk);
		}
		if (FOLD_PORTS)
			fold_ports(&o, sk);
	}
	u64 *words = (u64 *)&o;
#pragma unroll
	for (u32 i = 0; i < sizeof(o) / 8; i++)
		hash = mix(hash, words[i]);
	if (hash != known && !objects.lookup(&hash)) {
		objects.insert(&hash, &o);
		if (hash != known && !objects.lookup(&hash)) {
			count(STAT_OBJECT_TABLE_FULL);
			return 0;
		}
	}
	return hash;
}

/* ---- when the kernel has what a goroutine waits for -------------------------------------------------------------- */

/* Describes the descriptor of a network wait, and has its arrival noted from now on. */
static __always_inline void watch(struct scratch *s, struct goroutine *state, u32 fd, u32 writer)
{
	u64 sk = 0, key;
	u64 file = file_of(s, bpf_get_current_task(), fd);
	struct arrival none = {}, *known;

	state->object = object_of(s, file, fd, state->last_object, &sk);
	state->last_object = state->object;
	state->arrival = 0;
	key = BY_FILE ? file : sk;
	if (!key)
		return;
	key |= writer;
	known = watched.lookup(&key);
	if (known)
		known->when = 0;
	else if (watched.update(&key, &none)) {
		count(STAT_OBJECT_TABLE_FULL);
		return;
	}
	state->arrival = key;
}

/* At runtime.park_m: if the goroutine parks in netpollblock, its M's waitlock points to the pollDesc's rg or wg. */
static __always_inline void watch_parking(struct goroutine *state, u64 g)
{
	u64 lock;
	u32 writer = 0;
	u8 reason = 0;

	if (!KERNEL_STAGE || !M_WAITLOCK || bpf_probe_read_user(&reason, 1, (void *)(g + G_WAITREASON)) || reason != IO_WAIT)
		return;
	lock = user_word(user_word(g + G_M) + M_WAITLOCK);
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_ARRIVAL_UNWATCHED);
		return;
	}
	/* From the start of the pollDesc of a writer to its end for a reader. If the pollDesc is a reader's and begins a page, the word
	 * below may be in a page that was never touched (runtime/netpoll.go: alloc): then from its start for a reader. */
	if (bpf_probe_read_user(s->window, PD_READ, (void *)(lock - PD_WG)) &&
	    bpf_probe_read_user(s->window + (PD_WG - PD_RG), PD_READ - (PD_WG - PD_RG), (void *)(lock - PD_RG))) {
		count(STAT_ARRIVAL_UNWATCHED);
		goto out;
	}
	if (struct_word(s, PD_WG - PD_RG + PD_SELF) != lock - PD_RG) {
		writer = 1;
		if (struct_word(s, PD_SELF) != lock - PD_WG)
			goto out;
	}
	watch(s, state, writer ? struct_word(s, PD_FD) : struct_word(s, PD_WG - PD_RG + PD_FD), writer);
out:
	release_scratch(s);
}

/* Runs in the context that delivered the data. */
static __always_inline void arrived(void *ctx, u64 key, u64 sp, u32 own_frames)
{
	struct arrival *a = watched.lookup(&key);
	struct scratch *s;
	if (!a || a->when)
		return; /* no goroutine of ours waits for it */
	u64 now = bpf_ktime_get_ns();
	a->stopped_ns = stopped_until(now);
	a->stack = 0;
	if (WAKERS && (s = acquire_scratch())) {
		a->stack = keep_kernel_stack(ctx, s, sp, own_frames);
		release_scratch(s);
	}
	a->when = now;
}

/* Raw tracepoint sk_data_ready (Linux 6.3): sk. */
int on_data_ready(struct bpf_raw_tracepoint_args *ctx)
{
	arrived(ctx, ctx->args[0], (u64)ctx, RAW_TRACEPOINT_FRAMES);
	return 0;
}

/* kprobe on ep_poll_callback (fs/eventpoll.c): DI = wait queue entry, CX = key: which events, 0 if not known. */
int on_poll_event(struct pt_regs *ctx)
{
	u64 file = kernel_word(kernel_word(ctx->di - K_EPPOLL_WAIT + K_EPPOLL_BASE) + K_EPITEM_FILE);
	u32 events = ctx->cx;
	/* First the reader, then the writer; in a loop, so that the verifier's work is that of one. */
#pragma clang loop unroll(disable)
	for (u32 writer = 0; writer < 2; writer++)
		if (!events || events & (writer ? POLL_FOR_WRITER : POLL_FOR_READER))
			arrived(ctx, file | writer, ctx->sp, KPROBE_FRAMES);
	return 0;
}
