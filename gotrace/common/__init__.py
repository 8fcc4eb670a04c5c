"""What all rooms know: the vocabulary, units, histograms, errors, and how files are written."""
