"""Zero-shot transfer (section 3.1, Fig. 4), for ``dood-pyro transfer-table``: log p(x) by source."""
