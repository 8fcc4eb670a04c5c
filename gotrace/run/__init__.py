"""One trace, from the options to the written outputs."""
