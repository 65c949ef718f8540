"""Losses: pure functions of images, features and logits.

Owns the perceptual distance, the capture of features, the critic's objectives
and penalties, and the reconstruction losses. It is independent of training,
configuration and data. May import: `names`, `errors`.
"""
