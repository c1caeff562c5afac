"""How work is done, whatever the work is: units, ledger, runners, progress, breaker. Knows nothing of any stage."""
