"""What a network is and where its weights come from: specs, both block orderings, data, training."""
