"""Latents, one kind a file, with one interface (`base.Latent`).

Owns continuous latents and quantisers.
May import: what `models` may.
"""
