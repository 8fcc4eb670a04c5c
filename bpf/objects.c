/* What a file descriptor is: read from the kernel's own structs, whose offsets (K_*) are those of its BTF. */

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0xF000
#define S_IFSOCK 0xC000
#define AF_UNIX 1
/* runtime/netpoll_epoll.go: EPOLLIN, RDHUP, HUP and ERR wake the reader, EPOLLOUT, HUP and ERR the writer. */
#define POLL_FOR_READER 0x2019
#define POLL_FOR_WRITER 0x001C

/* struct file of the current task's descriptor, 0 if there is none. */
static __always_inline u64 file_of(u64 task, u32 fd)
{
	u64 fdt = kernel_word(kernel_word(task + K_TASK_FILES) + K_FILES_FDT);
	u32 size = kernel_word(fdt + K_FDTABLE_MAX_FDS);
	if (fd >= size)
		return 0;
	return kernel_word(kernel_word(fdt + K_FDTABLE_FD) + 8 * (u64)fd);
}

/* The path that a unix socket, or else its other end, is bound to: the socket of a client has none, that of its server has.
 * Kept in `unix_paths`, since it is gone with the socket; returns its key there, 0 if there is none. */
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
	/* sun_path, behind sun_family */
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

/* Describes a file in `objects` and returns its key there; *socket is its struct sock, 0 if it is none. */
static __always_inline u64 object_of(u64 file, u32 fd, u64 *socket)
{
	struct object o = {.fd = fd};
	u64 inode, hash = 0;

	*socket = 0;
	if (!file)
		return 0;
	inode = kernel_word(file + K_FILE_INODE);
	o.mode = (u16)kernel_word(inode + K_INODE_MODE);
	o.ino = kernel_word(inode + K_INODE_INO);
	o.dev = kernel_word(kernel_word(inode + K_INODE_SB) + K_SB_DEV);
	if ((o.mode & S_IFMT) == S_IFSOCK) {
		u64 sk = kernel_word(kernel_word(file + K_FILE_PRIVATE) + K_SOCKET_SK);
		*socket = sk;
		o.family = kernel_word(sk + K_SK_FAMILY);
		o.type = kernel_word(sk + K_SK_TYPE);
		o.state = (u8)kernel_word(sk + K_SK_STATE);
		if (o.family == AF_INET || o.family == AF_INET6) {
			o.local_port = kernel_word(sk + K_SK_NUM);
			o.peer_port = kernel_word(sk + K_SK_DPORT);
		}
		if (o.family == AF_UNIX)
			*(u64 *)o.peer = unix_path(sk);
		if (o.family == AF_INET) {
			bpf_probe_read_kernel(o.local, 4, (void *)(sk + K_SK_RCV_SADDR));
			bpf_probe_read_kernel(o.peer, 4, (void *)(sk + K_SK_DADDR));
		} else if (o.family == AF_INET6) {
			bpf_probe_read_kernel(o.local, 16, (void *)(sk + K_SK_V6_RCV_SADDR));
			bpf_probe_read_kernel(o.peer, 16, (void *)(sk + K_SK_V6_DADDR));
		}
	}
	u64 *words = (u64 *)&o;
#pragma unroll
	for (u32 i = 0; i < sizeof(o) / 8; i++)
		hash = mix(hash, words[i]);
	if (!objects.lookup(&hash)) {
		objects.insert(&hash, &o);
		if (!objects.lookup(&hash)) {
			count(STAT_OBJECT_TABLE_FULL);
			return 0;
		}
	}
	return hash;
}

/* ---- when the kernel has what a goroutine waits for -------------------------------------------------------------- */

/* Describes what the pollDesc of a network wait stands for, and has its arrival noted from now on. */
static __always_inline void watch(struct goroutine *state, u64 descriptor, u32 writer)
{
	u64 sk = 0, key;
	u32 fd = user_word(descriptor + PD_FD);
	u64 file = file_of(bpf_get_current_task(), fd);
	struct arrival none = {}, *known;

	state->object = object_of(file, fd, &sk);
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
	u64 lock, descriptor;
	u32 writer = 0;
	u8 reason = 0;

	if (!KERNEL_STAGE || !M_WAITLOCK || bpf_probe_read_user(&reason, 1, (void *)(g + G_WAITREASON)) || reason != IO_WAIT)
		return;
	lock = user_word(user_word(g + G_M) + M_WAITLOCK);
	descriptor = lock - PD_RG;
	if (user_word(descriptor + PD_SELF) != descriptor) {
		descriptor = lock - PD_WG;
		writer = 1;
		if (user_word(descriptor + PD_SELF) != descriptor)
			return;
	}
	watch(state, descriptor, writer);
}

/* In the context of whoever brought the data. */
static __always_inline void arrived(void *ctx, u64 key, u64 sp, u32 own_frames)
{
	struct arrival *a = watched.lookup(&key);
	u64 now = bpf_ktime_get_ns();
	struct scratch *s;
	if (!a || a->when)
		return;
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

/* kprobe on ep_poll_callback (fs/eventpoll.c): DI = wait queue entry, CX = key: which events, 0 if that is not told. */
int on_poll_event(struct pt_regs *ctx)
{
	u64 file = kernel_word(kernel_word(ctx->di - K_EPPOLL_WAIT + K_EPPOLL_BASE) + K_EPITEM_FILE);
	u32 events = ctx->cx;
	/* First the reader, then the writer; a loop, so that the verifier's work is that of one. */
#pragma clang loop unroll(disable)
	for (u32 writer = 0; writer < 2; writer++)
		if (!events || events & (writer ? POLL_FOR_WRITER : POLL_FOR_READER))
			arrived(ctx, file | writer, ctx->sp, KPROBE_FRAMES);
	return 0;
}
