"""The reference family: small diffusers-format models that this project trains, so that every method runs on a CPU.

An AutoencoderKL, a CLIP of a text and an image tower with its tokenizer, a text-conditional UNet in the shape of Stable
Diffusion, and a class-conditional DiT. `shapes` says how large they are, `tokens` makes the tokenizer, `objectives` holds the
losses, `training` the loop, `parts` what each is trained on. Stage `generator` feeds them; nothing here reads a file.
"""
