"""The four networks."""
