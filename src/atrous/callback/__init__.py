"""What happens beside the steps: saving, watching, drawing, reporting."""
