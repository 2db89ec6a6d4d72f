"""The diffusion model: opening it, its objective, noise and layers, training and sampling."""
