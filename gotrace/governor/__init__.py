"""Holds what tracing costs a target under a cap."""
