"""How measurements are drawn and kept: counter-based draws, ensembles, and one class a way of storing them."""
