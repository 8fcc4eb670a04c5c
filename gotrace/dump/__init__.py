"""`gotrace dump`: every goroutine as it is now."""
