"""Two small models that train on what the demonstration tokenized: a GPT on tokens, a diffusion model on latents."""
