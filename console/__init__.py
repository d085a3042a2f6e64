"""The operator's web console: watch, take over, hand back, label. It asks; the supervisor decides."""
