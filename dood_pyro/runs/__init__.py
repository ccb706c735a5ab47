"""Run folders: settings, facts, metrics and weights of a training, on disk."""
