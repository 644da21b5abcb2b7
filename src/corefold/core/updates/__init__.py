"""Updates of a weight in few numbers, and the linear map that carries them."""
