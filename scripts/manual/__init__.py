"""What scripts/docs is made of: the commands as data, and the man pages and shell completions made from them."""
