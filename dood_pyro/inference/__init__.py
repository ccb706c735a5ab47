"""Inference for training and tasks, over any model and guide: traces, bounds, parses, searches."""
