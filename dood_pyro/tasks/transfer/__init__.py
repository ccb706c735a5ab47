"""Zero-shot transfer (section 3.1, Fig. 4): log p(x) of every target under every source's model."""
