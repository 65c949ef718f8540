"""Opens finished models and uses them.

Owns loading, encoding, latent files, statistics and exports.
May import: `setup` and what is below it.
"""
