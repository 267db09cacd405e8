"""A checkpoint folder: what makes it complete, writing one and reading one."""
