"""A trained network at work on pictures: where it comes from, how it looks, what it leaves behind."""
