"""From what the user typed to trained runs: what to do, in which stacks, and doing it."""
