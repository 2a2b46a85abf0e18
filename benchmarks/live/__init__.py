"""Live gradients: the drop-ins beside torch and MLX."""
