"""Generative programs p(image, drawing), for runs; one file each, named in `dood_pyro.registry`."""
