"""Rendering Gaussians: one function, several backends with gsplat's argument names and conventions."""
