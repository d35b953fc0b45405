"""The decoder: latents to pictures, for inpainting, text-to-image and image-to-image."""
