"""The scorer (a library) and its HTTP server."""
