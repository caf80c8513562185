"""The client against a stub of the server, which can be made to fail in every way."""
