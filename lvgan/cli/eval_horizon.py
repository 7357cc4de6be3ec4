"""``lvgan eval horizon``: what only shows in long videos."""
