"""The HTTP edge: health, readiness, metrics and a page that shows what the daemon does."""
