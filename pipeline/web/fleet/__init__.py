"""Sources that other slots of a fleet serve: requests that are forwarded to them."""
