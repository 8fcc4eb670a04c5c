"""What a running trace shows live: `gotrace top`."""
