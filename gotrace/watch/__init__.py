"""One process: opens and verifies it, and watches its goroutines by probes or by samples of its memory."""
