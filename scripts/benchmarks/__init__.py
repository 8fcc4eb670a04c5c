"""What scripts/load and scripts/bench are made of."""
