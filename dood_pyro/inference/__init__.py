"""Inference over any model and guide: traces, bounds, parses, samplers and searches."""
