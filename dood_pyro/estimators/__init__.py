"""Objectives that train model and guide, one file each; `dood_pyro.registry` names them."""
