"""Requests of one process: sums by duration, and what the slow ones waited for in the end."""
