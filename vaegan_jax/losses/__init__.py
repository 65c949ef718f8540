"""What is minimised: pure functions of images, features and logits.

Owns the perceptual distance and how features are captured, the objectives of
the critic, its penalties, and the judge of reconstructions.
May import: `errors`. It knows no training, no configuration and no data.
"""
