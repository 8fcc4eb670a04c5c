"""gotrace: where the goroutines of a running, unmodified Go process spend their time off the CPU."""

__version__ = "0.1.0"
