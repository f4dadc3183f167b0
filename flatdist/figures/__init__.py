"""From tables to figures, and the commands that draw them."""
