"""A trained network against labels: counts for each picture, kept, and what follows from them."""
