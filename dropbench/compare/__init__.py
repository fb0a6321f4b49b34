"""What the records say: groups of runs that differ by seed alone, and the tables of them."""
