"""Scores from counts of pixels, their bands and boundaries, and how sure a difference is."""
