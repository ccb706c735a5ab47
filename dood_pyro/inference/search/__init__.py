"""Guides that search image by image over a trained one; `dood_pyro.registry` names them."""
