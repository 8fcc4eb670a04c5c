"""The Go processes of this host: which there are, and which of them are meant."""
