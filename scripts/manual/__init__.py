"""The parts of scripts/docs: the commands as data, and the man pages and shell completions made from them."""
