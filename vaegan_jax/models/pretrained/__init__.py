"""Pretrained networks, and the readers of their files.

Owns VGG, LPIPS, Inception and the diffusers layout.
May import: what `models` may.
"""
