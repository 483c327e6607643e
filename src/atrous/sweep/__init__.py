"""Many runs by one command: what they are, processes packed onto devices, and the table that they end in."""
