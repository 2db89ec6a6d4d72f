"""The diffusion model: opening pipelines, its objective, its noise, its layers, training, sampling."""
