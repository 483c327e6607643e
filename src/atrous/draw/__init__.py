"""Drawing for people: arrays in; pictures, charts and pages out, as PNG or HTML."""
