"""What can be read off a model's activations by a linear map, and what of that needs no training."""
