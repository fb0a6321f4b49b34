"""Inner loops that are differentiated by hand, because autograd on the formula is too slow."""
