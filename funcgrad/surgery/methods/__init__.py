"""Methods of the literature, each a few lines on taps, edits and overrides by place."""
