"""Samples of a process's memory: when one is due, what it sees, and which stacks result."""
