"""Records of runs: the journal each run writes, its copies, and what is asked of them."""
