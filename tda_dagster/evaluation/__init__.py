"""How far to trust it: reconstruction, self-influence, drift, concentration."""
