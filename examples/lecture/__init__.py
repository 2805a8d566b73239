"""What the notebooks of the lecture share."""
