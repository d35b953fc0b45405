"""`k22 serve`: the HTTP server."""
