"""Attribution of generated music to the training tracks that shaped it."""
