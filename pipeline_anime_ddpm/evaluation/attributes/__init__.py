"""A classifier of hair and eyes: what it is, how it is trained, how it labels faces."""
