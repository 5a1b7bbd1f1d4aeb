"""The page: its routes, and in `static/` what a browser loads."""
