"""Charts, and the curves behind them."""
