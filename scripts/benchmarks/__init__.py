"""The parts of scripts/load and scripts/bench."""
