"""From finished runs to figures: numpy and matplotlib in, files out."""
