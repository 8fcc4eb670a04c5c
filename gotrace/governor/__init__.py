"""Caps what tracing costs a target."""
