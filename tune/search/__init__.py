"""How trials are proposed, scheduled, ended and resumed."""
