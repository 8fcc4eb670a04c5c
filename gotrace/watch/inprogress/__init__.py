"""Intervals without an end in the window: goroutines that are parked, threads that are blocked."""
