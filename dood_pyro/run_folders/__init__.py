"""Run folders, written by training and read by tasks: settings, facts, metrics and weights, on disk."""
