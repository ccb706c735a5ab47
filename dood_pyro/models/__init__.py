"""Generative programs p(image, drawing), one file each; `dood_pyro.registry` names them."""
