"""Inference over any model and guide with the sites of `dood_pyro.models.sites`: bounds, samplers, parses."""
