"""What all diffusion families share: preconditioning, the ratio's estimate, samplers, and the family itself."""
