"""Zero-shot transfer (section 3.1, Fig. 4): who explains whose drawings."""
