"""What influenced what: Fisher information, unlearning, loss sweeps and scores."""
