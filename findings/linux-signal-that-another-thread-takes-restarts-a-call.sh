#!/usr/bin/env bash
# A blocked system call is interrupted and restarted by a signal that is never delivered to its thread.
#
# For a signal to the process the kernel picks a thread, the main thread first, and wakes it. Until that has a CPU, any other thread may
# take the signal: one that calls sigtimedwait, or that returns from the kernel with a signal of its own. The woken thread finds nothing,
# and the kernel starts its call again. No handler runs, and the tracepoint signal_deliver does not fire for the thread; but it has had a
# CPU, and its wait is now several. Who counts waits by context switches gets one more each time; who tells continued waits from new ones
# by the signals that were delivered misses all of these. SIGPROF of a profiler goes to the process. Seen on Linux 6.18, x86-64, two CPUs:
# of 200 signals 38 to 197 were taken by the other thread, and the thread in read was woken for nearly each of the 200. Needs cc.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/taken.c" <<'C'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static int ends[2], woken;
static volatile int handled, taken, done;
static void handler(int number) { handled++; }
static int switches(void) { /* of the main thread */
	char path[64], line[256];
	int count = -1;
	snprintf(path, sizeof path, "/proc/self/task/%d/status", getpid());
	FILE *status = fopen(path, "r");
	while (fgets(line, sizeof line, status))
		sscanf(line, "voluntary_ctxt_switches: %d", &count);
	fclose(status);
	return count;
}
static void block(sigset_t *set) {
	sigemptyset(set);
	sigaddset(set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, set, 0);
}
static void *take(void *unused) {
	sigset_t set;
	struct timespec none = {0, 0};
	for (block(&set); !done;)
		taken += sigtimedwait(&set, 0, &none) == SIGUSR2;
	return unused;
}
static void *ask(void *unused) {
	sigset_t set;
	struct timespec pause = {0, 10000000}, first = {0, 300000000};
	block(&set);
	nanosleep(&first, 0);
	int before = switches();
	for (int i = 0; i < 200; i++, nanosleep(&pause, 0))
		kill(getpid(), SIGUSR2);
	woken = switches() - before;
	done = 1;
	return write(ends[1], "x", 1) < 0 ? unused : 0;
}
int main(void) {
	char c;
	pthread_t t;
	struct sigaction act;
	memset(&act, 0, sizeof act);
	act.sa_handler = handler;
	act.sa_flags = SA_RESTART;
	sigaction(SIGUSR2, &act, 0);
	if (pipe(ends))
		return 1;
	pthread_create(&t, 0, take, 0);
	pthread_create(&t, 0, ask, 0);
	long got = read(ends[0], &c, 1);
	printf("one read returned %ld; of 200 signals %d were handled in its thread and %d taken by another; it was woken %d times\n",
	       got, handled, taken, woken);
	return !(taken >= 10 && woken >= handled + taken / 2);
}
C
cc -O1 -pthread -o "$folder/taken" "$folder/taken.c"
"$folder/taken"
