"""The scheduler of a process, read from its memory: what `gotrace sched` shows."""
