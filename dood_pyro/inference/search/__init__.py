"""Guides that search image by image over a trained one, for tasks; `dood_pyro.registry` names them."""
