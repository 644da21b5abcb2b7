"""Linear algebra: singular vectors and values, bases, sketches of gradients, measures of rank."""
