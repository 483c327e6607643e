"""Lightning callbacks: saving, checking, drawing and reporting beside the training steps."""
