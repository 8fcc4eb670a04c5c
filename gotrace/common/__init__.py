"""What all packages share: the vocabulary, units, histograms, errors, and how files are written."""
