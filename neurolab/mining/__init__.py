"""Dataset-example mining: mergeable summaries and the one-pass miner."""
