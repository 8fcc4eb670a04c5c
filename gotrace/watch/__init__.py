"""One process: opening and verifying it, and watching its goroutines by probes or by samples of its memory."""
