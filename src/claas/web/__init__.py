"""What the API is made of."""
