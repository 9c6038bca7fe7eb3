"""The gateway: takes requests, gathers and plans them, forwards them, accounts for them."""
