"""Generative programs p(image, drawing), built by runs, one file each; `dood_pyro.registry` names
them.
"""
