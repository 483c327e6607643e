"""Pictures, charts and pages for people: arrays in, PNG or HTML out."""
