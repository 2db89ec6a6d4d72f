"""Pages and pictures that show an attribution to people."""
